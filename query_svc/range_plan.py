"""How a range is read: whole days and hours from rollups, the rest from raw events. Pure."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from common.intervals import HOUR, ceil_day, ceil_hour, floor_day, floor_hour
from common.timestamps import EPOCH


class Piece(NamedTuple):
    """A part [start, end) of bucket number `bucket`."""

    bucket: int
    start: datetime
    end: datetime


class Floors(NamedTuple):
    """From when on raw events with sessions, hour rows and day rows are whole. Earlier ones may be gone.

    `raw` and `hours` are whole hours, `days` is a whole day.
    """

    raw: datetime
    hours: datetime
    days: datetime


class RangePlan(NamedTuple):
    """The pieces of a range. They are disjoint, and together they are the range."""

    days: list[Piece]
    """Whole UTC days, read from day rows and the days' deltas."""
    hours: list[Piece]
    """Whole UTC hours, read from hour rows and their deltas."""
    edges: list[Piece]
    """The rest, read from raw events and sessions: parts of hours, and what has no rollups any more."""


NOTHING_GONE = Floors(*[datetime.min.replace(tzinfo=UTC)] * 3)


def plan_range(
    bucket_starts: Sequence[datetime], end: datetime, floors: Floors = NOTHING_GONE, first: int = 0
) -> RangePlan:
    """Plans buckets that begin at `bucket_starts` (ascending). Each ends where the next begins, the last at `end`.
    They are numbered from `first` on.

    The bounds must be answerable with these floors (see query_svc/effective_range.py).
    """
    plan = RangePlan([], [], [])
    ends = (*bucket_starts[1:], end)
    for bucket, (start, stop) in enumerate(zip(bucket_starts, ends, strict=True), first):
        first_day, last_day = max(ceil_day(start), floors.days), floor_day(stop)
        if first_day < last_day:
            plan.days.append(Piece(bucket, first_day, last_day))
            parts = [(start, first_day), (last_day, stop)]
        else:
            parts = [(start, stop)]
        for part in parts:
            if part[0] < part[1]:
                _add_hours(plan, bucket, *part, floors.hours)
    return plan


def _add_hours(plan: RangePlan, bucket: int, start: datetime, stop: datetime, hours_from: datetime) -> None:
    """Plans a part that is not read from day rows: whole hours, and the edges around them."""
    if stop - start == HOUR and start >= hours_from and not (start - EPOCH) % HOUR:
        # A shortcut for the most frequent case.
        plan.hours.append(Piece(bucket, start, stop))
        return
    first_hour, last_hour = max(ceil_hour(start), hours_from), floor_hour(stop)
    if first_hour < last_hour:
        plan.hours.append(Piece(bucket, first_hour, last_hour))
        edges = [(start, first_hour), (last_hour, stop)]
    else:
        middle = min(ceil_hour(start), stop)
        edges = [(start, middle), (middle, stop)]
    plan.edges.extend(Piece(bucket, *edge) for edge in edges if edge[0] < edge[1])
