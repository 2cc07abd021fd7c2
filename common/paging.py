"""What lists have in common: how large a page is, and when another follows."""

from collections.abc import Callable
from typing import TypeVar

from common.errors import Reason, invalid
from common.page_tokens import Cursor, PageTokens

Row = TypeVar("Row")

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1_000


def bounded(field: str, value: int, *, default: int, most: int) -> int:
    """A count that a client asks for: 0 = default, too much = the most. Raises CallError when negative."""
    if value < 0:
        raise invalid(field, Reason.VALUE_OUT_OF_RANGE, f"is {value}; it must be 0 (= {default}) or more")
    return min(value, most) or default


def page_size(value: int) -> int:
    """The page_size of a list request, made good."""
    return bounded("page_size", value, default=DEFAULT_PAGE_SIZE, most=MAX_PAGE_SIZE)


def cut_page(
    rows: list[Row], size: int, tokens: PageTokens, request: tuple[str, ...], cursor: Callable[[Row], Cursor]
) -> tuple[list[Row], str]:
    """Of `size + 1` rows that were asked for: the page, and the token of the next one ("" on the last)."""
    if len(rows) <= size:
        return rows, ""
    return rows[:size], tokens.seal(request, cursor(rows[size - 1]))
