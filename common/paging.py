"""Pages of lists: their size, and whether another page follows."""

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
"""Clients accept messages of at most 4 MiB by default."""


def bounded(field: str, value: int, *, default: int, most: int) -> int:
    """The number that a client asks for: `default` for 0, and not over `most`. Raises CallError if it is negative."""
    if value < 0:
        raise invalid(field, Reason.VALUE_OUT_OF_RANGE, f"is {value}; it must be 0 (= {default}) or more")
    return min(value, most) or default


def page_size(value: int) -> int:
    """The page_size of a list request: 0 means 100, at most 1,000. Raises CallError if negative."""
    return bounded("page_size", value, default=DEFAULT_PAGE_SIZE, most=MAX_PAGE_SIZE)


def cut_page(
    rows: list[Row],
    size: int,
    to_message: Callable[[Row], Sent],
    tokens: PageTokens,
    request: tuple[str, ...],
    cursor: Callable[[Row], Cursor],
) -> tuple[list[Sent], str]:
    """The messages of a page, and the token of the next page ("" if this is the last).

    `rows` are those of a query with LIMIT `size + 1`. A page also ends before the message that would take it over
    3 MiB, but it has at least one.
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
