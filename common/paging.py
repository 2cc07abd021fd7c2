"""What lists have in common: how large a page is, and when another follows."""

from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import Message

from common.errors import Reason, invalid
from common.page_tokens import Cursor, PageTokens

Row = TypeVar("Row")
Sent = TypeVar("Sent", bound=Message)

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1_000
MAX_PAGE_BYTES = 3 * 1024 * 1024
"""Clients take messages of 4 MiB unless told otherwise."""


def bounded(field: str, value: int, *, default: int, most: int) -> int:
    """A count that a client asks for: 0 = default, too much = the most. Raises CallError when negative."""
    if value < 0:
        raise invalid(field, Reason.VALUE_OUT_OF_RANGE, f"is {value}; it must be 0 (= {default}) or more")
    return min(value, most) or default


def page_size(value: int) -> int:
    """The page_size of a list request, made good."""
    return bounded("page_size", value, default=DEFAULT_PAGE_SIZE, most=MAX_PAGE_SIZE)


def cut_page(
    rows: list[Row],
    size: int,
    to_message: Callable[[Row], Sent],
    tokens: PageTokens,
    request: tuple[str, ...],
    cursor: Callable[[Row], Cursor],
) -> tuple[list[Sent], str]:
    """Of `size + 1` rows that were asked for: the page's messages, and the token of the next page ("" on the last).

    A page also ends where its messages would pass 3 MiB, but not before the first.
    """
    page: list[Sent] = []
    total = 0
    for row in rows[:size]:
        message = to_message(row)
        total += message.ByteSize()
        if page and total > MAX_PAGE_BYTES:
            break
        page.append(message)
    if len(page) == len(rows):
        return page, ""
    return page, tokens.seal(request, cursor(rows[len(page) - 1]))
