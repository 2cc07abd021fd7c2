"""Checks requests and returns what they ask for. Pure. One function per kind of field; messages name its path."""

from datetime import UTC, datetime
from typing import Literal, NamedTuple, Protocol

from footfall.query.v1 import query_pb2
from footfall.type.v1 import time_range_pb2

from common.dimensions import BY_NUMBER, Dimension
from common.errors import Reason, invalid
from common.paging import bounded
from common.timestamps import bound_from_timestamp

DEFAULT_LIMIT = 10
MAX_LIMIT = 1_000
MAX_TOPS = 20

# So that the whole hours and days around a bound, in any time zone, are in the years that datetime supports.
_FIRST = datetime(2, 1, 1, tzinfo=UTC)
_LAST = datetime(9998, 1, 1, tzinfo=UTC)

Range = tuple[datetime, datetime]

# SQL expressions over the counters that key_sql.counters_per_key selects; None = query_svc/top_by_visitors.py ranks.
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


class ComparedRequest(Protocol):
    """A request that may have a second range."""

    @property
    def comparison_range(self) -> time_range_pb2.TimeRange: ...
    def HasField(self, field_name: Literal["comparison_range"], /) -> bool: ...  # noqa: N802  # as above


def required_range(request: RangedRequest) -> Range:
    """The request's range as bounds for stored times. Raises CallError if it is absent, inverted or empty."""
    if not request.HasField("range"):
        raise invalid("range", Reason.FIELD_REQUIRED, "is missing; give start_time and end_time")
    return _checked("range", request.range)


def optional_range(request: RangedRequest) -> Range | None:
    """The request's range, or None for all time. Raises CallError if it is inverted or empty."""
    return _checked("range", request.range) if request.HasField("range") else None


def comparison_range(request: ComparedRequest) -> Range | None:
    """The range to compare with, if any. Raises CallError if it is inverted or empty."""
    return _checked("comparison_range", request.comparison_range) if request.HasField("comparison_range") else None


class Ranking(NamedTuple):
    """What a top list is of, in what order and how long."""

    dimension: Dimension
    limit: int
    order: str | None
    """An expression over the counters of key_sql.counters_per_key; None = by distinct visitors."""


def ranking(request: query_pb2.GetTopRequest | query_pb2.TopSpec, path: str = "") -> Ranking:
    """What to rank. Raises CallError for an unknown dimension or order and for a negative limit. `path` is the path of
    the message that has the fields, for error messages."""
    if request.order_by not in _ORDERS:
        names = ", ".join(name for name, _ in query_pb2.OrderBy.items())
        raise invalid(f"{path}order_by", Reason.VALUE_UNKNOWN, f"must be one of {names}")
    return Ranking(
        _dimension(f"{path}dimension", request.dimension),
        row_limit(request.limit, f"{path}limit"),
        _ORDERS[request.order_by],
    )


def rankings(request: query_pb2.GetDashboardRequest) -> list[Ranking]:
    """The dashboard's top lists. Raises CallError as `ranking`, and for more than 20."""
    if len(request.tops) > MAX_TOPS:
        raise invalid("tops", Reason.VALUE_OUT_OF_RANGE, f"holds {len(request.tops)} lists, {MAX_TOPS} are allowed")
    return [ranking(spec, f"tops[{index}].") for index, spec in enumerate(request.tops)]


def row_limit(limit: int, field: str = "limit") -> int:
    """How many rows a report returns: 10 by default, at most 1,000. Raises CallError if negative."""
    return bounded(field, limit, default=DEFAULT_LIMIT, most=MAX_LIMIT)


def _dimension(field: str, number: int) -> Dimension:
    dimension = BY_NUMBER.get(number)
    if dimension is None:
        names = ", ".join(name for name, _ in query_pb2.Dimension.items() if not name.endswith("_UNSPECIFIED"))
        raise invalid(field, Reason.VALUE_UNKNOWN, f"must be one of {names}")
    return dimension


def required_text(field: str, value: str) -> str:
    """The text. Raises CallError if it is empty or has a NUL character, which Postgres cannot store."""
    if not value:
        raise invalid(field, Reason.FIELD_REQUIRED, "is empty")
    if "\0" in value:
        raise invalid(field, Reason.TEXT_HAS_NUL, "holds a NUL character; remove it")
    return value


def _checked(field: str, value: time_range_pb2.TimeRange) -> Range:
    bounds: list[datetime] = []
    for name in ("start_time", "end_time"):
        if not value.HasField(name):
            raise invalid(f"{field}.{name}", Reason.FIELD_REQUIRED, "is missing")
        try:
            bound = bound_from_timestamp(getattr(value, name))
        except (ValueError, OverflowError) as error:
            raise invalid(f"{field}.{name}", Reason.RANGE_INVALID, f"is not a valid time: {error}") from error
        if not _FIRST <= bound <= _LAST:
            raise invalid(f"{field}.{name}", Reason.RANGE_INVALID, "must lie in the years 2–9997")
        bounds.append(bound)
    start, end = bounds
    if end <= start:
        raise invalid(f"{field}.end_time", Reason.RANGE_INVALID, f"must be later than {field}.start_time")
    return start, end
