"""What requests ask for, checked. Pure: one function per kind of field, and the field's path in its message."""

from datetime import UTC, datetime
from typing import Literal, Protocol

from footfall.query.v1 import query_pb2
from footfall.type.v1 import time_range_pb2

from common.dimensions import BY_NUMBER, Dimension
from common.errors import Reason, invalid
from common.paging import bounded
from common.timestamps import bound_from_timestamp

DEFAULT_LIMIT = 10
MAX_LIMIT = 1_000

# So that no whole hour, day or zone offset around a bound leaves the years that can be computed with.
_FIRST = datetime(2, 1, 1, tzinfo=UTC)
_LAST = datetime(9998, 1, 1, tzinfo=UTC)

Range = tuple[datetime, datetime]

# Over the counters that sources.counters_per_key selects; None where only Python can rank.
_ORDERS: dict[int, str | None] = {
    query_pb2.ORDER_BY_UNSPECIFIED: "events",
    query_pb2.ORDER_BY_EVENTS: "events",
    query_pb2.ORDER_BY_PAGEVIEWS: "pageviews",
    query_pb2.ORDER_BY_SESSIONS: "sessions",
    query_pb2.ORDER_BY_VISITORS: None,
    query_pb2.ORDER_BY_NEW_VISITORS: "new_visitors",
    query_pb2.ORDER_BY_BOUNCE_RATE: "coalesce(bounces::numeric / nullif(sessions, 0), 0)",
    query_pb2.ORDER_BY_AVERAGE_SESSION_DURATION: "coalesce(duration_us::numeric / nullif(sessions, 0), 0)",
}


class RangedRequest(Protocol):
    """A request with a range."""

    @property
    def range(self) -> time_range_pb2.TimeRange: ...
    def HasField(self, field_name: Literal["range"], /) -> bool: ...  # noqa: N802  # named by protobuf


def required_range(request: RangedRequest) -> Range:
    """The request's range over stored times. Raises CallError when it is absent, inverted or empty."""
    if not request.HasField("range"):
        raise invalid("range", Reason.FIELD_REQUIRED, "is missing; give start_time and end_time")
    return _checked(request.range)


def optional_range(request: RangedRequest) -> Range | None:
    """The request's range, or None for all time. Raises CallError when it is inverted or empty."""
    return _checked(request.range) if request.HasField("range") else None


def top_limit(limit: int) -> int:
    """How many rows a report gives. Raises CallError when negative."""
    return bounded("limit", limit, default=DEFAULT_LIMIT, most=MAX_LIMIT)


def top_dimension(number: int) -> Dimension:
    """The dimension to rank. Raises CallError for a number that is none."""
    dimension = BY_NUMBER.get(number)
    if dimension is None:
        names = ", ".join(name for name, _ in query_pb2.Dimension.items() if not name.endswith("_UNSPECIFIED"))
        raise invalid("dimension", Reason.VALUE_UNKNOWN, f"must be one of {names}")
    return dimension


def top_order(number: int) -> str | None:
    """How to rank in SQL; None = by distinct visitors. Raises CallError for a number that is no order."""
    if number not in _ORDERS:
        raise invalid("order_by", Reason.VALUE_UNKNOWN, f"must be one of {', '.join(query_pb2.OrderBy.keys())}")
    return _ORDERS[number]


def required_text(field: str, value: str) -> str:
    """A text that must be there and can be in the database. Raises CallError."""
    if not value:
        raise invalid(field, Reason.FIELD_REQUIRED, "is empty")
    if "\0" in value:
        raise invalid(field, Reason.TEXT_HAS_NUL, "holds a NUL character; remove it")
    return value


def _checked(value: time_range_pb2.TimeRange) -> Range:
    bounds: list[datetime] = []
    for name in ("start_time", "end_time"):
        if not value.HasField(name):
            raise invalid(f"range.{name}", Reason.FIELD_REQUIRED, "is missing")
        try:
            bound = bound_from_timestamp(getattr(value, name))
        except (ValueError, OverflowError) as error:
            raise invalid(f"range.{name}", Reason.RANGE_INVALID, f"is not a valid time: {error}") from error
        if not _FIRST <= bound <= _LAST:
            raise invalid(f"range.{name}", Reason.RANGE_INVALID, "must lie in the years 2–9997")
        bounds.append(bound)
    start, end = bounds
    if end <= start:
        raise invalid("range.end_time", Reason.RANGE_INVALID, "must be later than range.start_time")
    return start, end
