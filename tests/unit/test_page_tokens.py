"""A page token opens for the request it was made for, and for nothing else."""

import base64
import hashlib
import json
from datetime import UTC

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import CallError
from common.page_tokens import Cursor, PageTokens

SECRET = b"s" * 32
TOKENS = PageTokens(lambda: SECRET)

requests = st.lists(st.text(max_size=8), min_size=1, max_size=4).map(tuple)
times = st.datetimes(timezones=st.just(UTC))
cursors = st.lists(st.one_of(st.text(max_size=12), st.integers(-(2**63), 2**63 - 1), times), max_size=4)


@given(requests, cursors)
def test_a_token_gives_back_its_cursor(request: tuple[str, ...], cursor: Cursor) -> None:
    assert TOKENS.open(request, TOKENS.seal(request, cursor)) == cursor


def test_no_token_is_the_beginning() -> None:
    assert TOKENS.open(("ListEvents", "shop"), "") is None


@given(requests, cursors, st.data())
def test_a_changed_byte_is_refused(request: tuple[str, ...], cursor: Cursor, data: st.DataObject) -> None:
    """Anywhere in the seal or in the cursor, whichever bit."""
    token = TOKENS.seal(request, cursor)
    raw = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(CallError, match="PAGE_TOKEN_INVALID"):
        TOKENS.open(request, base64.urlsafe_b64encode(raw).decode().rstrip("="))


@given(requests, cursors, st.integers(1, 40))
def test_a_shortened_token_is_refused(request: tuple[str, ...], cursor: Cursor, cut: int) -> None:
    token = TOKENS.seal(request, cursor)[:-cut]
    if token:
        with pytest.raises(CallError, match="PAGE_TOKEN_INVALID"):
            TOKENS.open(request, token)


@given(requests, requests, cursors)
def test_the_token_of_another_request_is_refused(
    request: tuple[str, ...], other: tuple[str, ...], cursor: Cursor
) -> None:
    """However its fields are cut: ("ab", "c") is not ("a", "bc")."""
    if request != other:
        with pytest.raises(CallError, match="PAGE_TOKEN_INVALID"):
            TOKENS.open(other, TOKENS.seal(request, cursor))


@given(requests, cursors, st.binary(min_size=1, max_size=64).filter(lambda secret: secret != SECRET))
def test_the_token_of_another_installation_is_refused(request: tuple[str, ...], cursor: Cursor, secret: bytes) -> None:
    with pytest.raises(CallError, match="PAGE_TOKEN_INVALID"):
        TOKENS.open(request, PageTokens(lambda: secret).seal(request, cursor))


def test_the_token_of_an_earlier_form_is_refused() -> None:
    """Before the times of a cursor were kept as microseconds, the hash had no `person`."""
    request, body = ("ListVisitors", "shop"), b'["2024-02-29T05:30:00+00:00",7]'
    message = json.dumps(request).encode() + b"\0" + body
    seal = hashlib.blake2b(message, key=SECRET, digest_size=16).digest()
    with pytest.raises(CallError, match="PAGE_TOKEN_INVALID"):
        TOKENS.open(request, base64.urlsafe_b64encode(seal + body).decode().rstrip("="))


@given(st.text(min_size=1))
def test_made_up_text_is_refused(text: str) -> None:
    with pytest.raises(CallError, match="PAGE_TOKEN_INVALID"):
        TOKENS.open(("ListEvents", "shop"), text)
