"""Which part of a range a site has anything in, so that a report's cost follows from the data and not from the range.

An hour that any event or session counts in has a row of the overview: the hour's own, a delta or, where hour rows have
gone, its day's. What has no rollups any more is found in the raw tables.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import psycopg

from common.dimensions import OVERVIEW
from common.intervals import DAY, RollupInterval, floor_day, floor_hour
from query_svc.range_plan import Floors, Piece, RangePlan

MANY_PIECES = 100
"""Pieces apart from one another. More of them are not read unless they hold anything."""

# By what a plan reads, the rows of the site and the column of their time. Floors keep a probe from going through index
# entries of rows that cleanup has deleted.
_OVERVIEW = f"rollup_shards WHERE site_id = %(site_id)s AND dimension = {OVERVIEW.number}"
_SOURCES = (
    (f"{_OVERVIEW} AND interval = {RollupInterval.DAY} AND delta_no = 0", "bucket_start", "days"),
    (f"{_OVERVIEW} AND interval = {RollupInterval.HOUR} AND delta_no = 0", "bucket_start", "hours"),
    (f"{_OVERVIEW} AND delta_no > 0", "bucket_start", "deltas"),
    ("events WHERE site_id = %(site_id)s", "occurred_at", "raw"),
    ("sessions WHERE site_id = %(site_id)s", "started_at", "raw"),
)


def _ends(direction: str) -> str:
    return ", ".join(
        f"(SELECT {at} FROM {rows} AND {at} >= %({floor})s ORDER BY {at} {direction} LIMIT 1)"
        for rows, at, floor in _SOURCES
    )


# The first and the last instant that anything of the site is stored under: a probe for each end of each source.
_EXTENT = f"SELECT least({_ends('ASC')}), greatest({_ends('DESC')})"

# The hours of a range that have a row of the overview.
_HOURS = f"""
SELECT bucket_start FROM {_OVERVIEW} AND interval = {RollupInterval.HOUR} AND delta_no = 0
  AND bucket_start >= %(start)s AND bucket_start < %(end)s
UNION
SELECT bucket_start FROM {_OVERVIEW} AND delta_no > 0 AND bucket_start >= %(start)s AND bucket_start < %(end)s
"""

Connection = psycopg.Connection[Any]


class Extent(NamedTuple):
    """Whole days [start, end) that hold everything a site has."""

    start: datetime
    end: datetime


class Buckets(NamedTuple):
    """Some of a range's buckets: the first one's number, their starts, and the end of the last."""

    first: int
    starts: list[datetime]
    end: datetime


def extent_of(connection: Connection, site_id: int, floors: Floors) -> Extent | None:
    """From when to when the site has anything that the floors leave; None where it has nothing."""
    parameters = {"site_id": site_id, **floors._asdict(), "deltas": min(floors.hours, floors.days)}
    row = connection.execute(_EXTENT, parameters).fetchone()
    if row is None or row[0] is None:
        return None
    return Extent(floor_day(row[0]), floor_day(row[1]) + DAY)


def within(extent: Extent, starts: Sequence[datetime], end: datetime) -> Buckets:
    """The buckets of a range that overlap the extent, the outer ones cut to it; pure."""
    if end <= extent.start or starts[0] >= extent.end:
        return Buckets(0, [], end)
    first = max(0, bisect_right(starts, extent.start) - 1)
    last = bisect_left(starts, extent.end)
    stop = starts[last] if last < len(starts) else end
    return Buckets(first, [max(starts[first], extent.start), *starts[first + 1 : last]], min(stop, extent.end))


def without_empty(connection: Connection, site_id: int, plan: RangePlan, hours_from: datetime) -> RangePlan:
    """The plan without hours and edges that hold nothing, where it has many of them apart from one another."""
    hours_apart = sum(one.end != two.start for one, two in zip(plan.hours, plan.hours[1:], strict=False))
    if hours_apart < MANY_PIECES and len(plan.edges) < MANY_PIECES:
        return plan
    pieces = plan.edges if hours_apart < MANY_PIECES else [*plan.hours, *plan.edges]
    span = {
        "start": max(floor_hour(min(piece.start for piece in pieces)), hours_from),
        "end": max(piece.end for piece in pieces),
    }
    occupied = sorted(row[0] for row in connection.execute(_HOURS, {"site_id": site_id, **span}))

    def holds(piece: Piece) -> bool:
        if piece.start < hours_from:
            # Of what lies before the floor of hour rows, they tell nothing.
            return True
        at = bisect_left(occupied, floor_hour(piece.start))
        return at < len(occupied) and occupied[at] < piece.end

    return plan._replace(
        hours=plan.hours if hours_apart < MANY_PIECES else [piece for piece in plan.hours if holds(piece)],
        edges=[piece for piece in plan.edges if holds(piece)],
    )
