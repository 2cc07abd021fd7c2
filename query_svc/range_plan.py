"""How a range is read: whole hours from rollups, the rest from raw events. Pure."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

_HOUR = timedelta(hours=1)


class Piece(NamedTuple):
    """A part [start, end) of bucket number `bucket`."""

    bucket: int
    start: datetime
    end: datetime


class RangePlan(NamedTuple):
    """The pieces are disjoint and together are the range."""

    hours: list[Piece]
    """Whole UTC hours, read from rollups."""
    edges: list[Piece]
    """Parts of hours, read from raw events and sessions."""


def plan_range(bucket_starts: Sequence[datetime], end: datetime) -> RangePlan:
    """Plans buckets that begin at `bucket_starts` (ascending) and end where the next begins, the last at `end`."""
    hours: list[Piece] = []
    edges: list[Piece] = []
    ends = (*bucket_starts[1:], end)
    for bucket, (start, stop) in enumerate(zip(bucket_starts, ends, strict=True)):
        first_hour, last_hour = ceil_hour(start), floor_hour(stop)
        if first_hour >= last_hour:
            # No whole hour inside; at most it reaches over one hour's edge.
            edges += [Piece(bucket, *part) for part in _split(start, stop, first_hour)]
            continue
        hours.append(Piece(bucket, first_hour, last_hour))
        if start < first_hour:
            edges.append(Piece(bucket, start, first_hour))
        if last_hour < stop:
            edges.append(Piece(bucket, last_hour, stop))
    return RangePlan(hours, edges)


def floor_hour(instant: datetime) -> datetime:
    """The start of the instant's UTC hour."""
    return instant.replace(minute=0, second=0, microsecond=0)


def ceil_hour(instant: datetime) -> datetime:
    """The first whole UTC hour at or after the instant."""
    floor = floor_hour(instant)
    return floor if floor == instant else floor + _HOUR


def _split(start: datetime, stop: datetime, at: datetime) -> list[tuple[datetime, datetime]]:
    return [(start, stop)] if not start < at < stop else [(start, at), (at, stop)]
