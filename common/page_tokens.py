"""Page tokens: the cursor at which a list continues, sealed together with the request it belongs to.

A token is the cursor as JSON and a keyed hash over method, request and cursor. A changed byte, another request or
another list makes it invalid. So every cursor that reaches SQL was made by one of the services.
"""

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from common.errors import Reason, invalid
from common.timestamps import EPOCH, duration_micros

_SEAL_BYTES = 16

Cursor = Sequence[str | int | datetime]
"""Where a list continues. Times are aware and kept to the microsecond."""


class PageTokens:
    """Seals and opens page tokens with a secret that all processes share.

    `load_secret` is called once, at the first use, so that a process can start while the database is unreachable.
    """

    def __init__(self, load_secret: Callable[[], bytes]) -> None:
        self._secret = cache(load_secret)

    def seal(self, request: tuple[str, ...], cursor: Cursor) -> str:
        """The token that continues `request` (its method and every field that selects rows) at `cursor`."""
        body = json.dumps([*cursor], separators=(",", ":"), default=_time_to_json).encode()
        return base64.urlsafe_b64encode(self._hash(request, body) + body).decode().rstrip("=")

    def open(self, request: tuple[str, ...], token: str) -> list[Any] | None:
        """The cursor of a token of this request; None for "". Raises CallError for any other text."""
        if not token:
            return None
        try:
            raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        seal, body = raw[:_SEAL_BYTES], raw[_SEAL_BYTES:]
        if not hmac.compare_digest(seal, self._hash(request, body)):
            raise invalid(
                "page_token",
                Reason.PAGE_TOKEN_INVALID,
                "is not a token of this request; start again without one, and keep the other fields the same",
            )
        cursor: list[Any] = json.loads(body, object_hook=_time_from_json)
        return cursor

    def _hash(self, request: tuple[str, ...], body: bytes) -> bytes:
        message = json.dumps(request).encode() + b"\0" + body
        # `person` names the form of the cursor: a token of a release with another form is invalid, not misread.
        return hashlib.blake2b(message, key=self._secret(), digest_size=_SEAL_BYTES, person=b"cursor 2").digest()


def _time_to_json(value: datetime) -> dict[str, int]:
    return {"us": duration_micros(value - EPOCH)}


def _time_from_json(value: dict[str, int]) -> datetime:
    return EPOCH + timedelta(microseconds=value["us"])
