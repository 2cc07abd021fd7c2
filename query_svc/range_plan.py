"""How a range is read: whole days and hours from rollups, the rest from raw events. Pure."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
_ORIGIN = datetime(1970, 1, 1, tzinfo=UTC)


class Piece(NamedTuple):
    """A part [start, end) of bucket number `bucket`."""

    bucket: int
    start: datetime
    end: datetime


class RangePlan(NamedTuple):
    """The pieces are disjoint and together are the range."""

    days: list[Piece]
    """Whole UTC days, read from day rows and the days' unfolded deltas."""
    hours: list[Piece]
    """Whole UTC hours, read from hour rows and their deltas."""
    edges: list[Piece]
    """Parts of hours, read from raw events and sessions."""


def plan_range(bucket_starts: Sequence[datetime], end: datetime) -> RangePlan:
    """Plans buckets that begin at `bucket_starts` (ascending) and end where the next begins, the last at `end`."""
    days: list[Piece] = []
    hours: list[Piece] = []
    edges: list[Piece] = []
    ends = (*bucket_starts[1:], end)
    for bucket, (start, stop) in enumerate(zip(bucket_starts, ends, strict=True)):
        first_hour, last_hour = ceil_hour(start), floor_hour(stop)
        if first_hour >= last_hour:
            # No whole hour inside; at most it reaches over one hour's edge.
            edges += [Piece(bucket, *part) for part in _split(start, stop, first_hour)]
            continue
        first_day, last_day = _ceil(first_hour, _DAY), _floor(last_hour, _DAY)
        if first_day < last_day:
            days.append(Piece(bucket, first_day, last_day))
            parts = [(first_hour, first_day), (last_day, last_hour)]
        else:
            parts = [(first_hour, last_hour)]
        hours += [Piece(bucket, *part) for part in parts if part[0] < part[1]]
        if start < first_hour:
            edges.append(Piece(bucket, start, first_hour))
        if last_hour < stop:
            edges.append(Piece(bucket, last_hour, stop))
    return RangePlan(days, hours, edges)


def floor_hour(instant: datetime) -> datetime:
    """The start of the instant's UTC hour."""
    return _floor(instant, _HOUR)


def ceil_hour(instant: datetime) -> datetime:
    """The first whole UTC hour at or after the instant."""
    return _ceil(instant, _HOUR)


def _floor(instant: datetime, unit: timedelta) -> datetime:
    return instant - (instant - _ORIGIN) % unit


def _ceil(instant: datetime, unit: timedelta) -> datetime:
    return instant + (_ORIGIN - instant) % unit


def _split(start: datetime, stop: datetime, at: datetime) -> list[tuple[datetime, datetime]]:
    return [(start, stop)] if not start < at < stop else [(start, at), (at, stop)]
