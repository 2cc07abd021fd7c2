"""Incomplete hours: a visitor was erased from them, so their raw events hold less than their rollups."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

import psycopg

from common.intervals import HOUR, floor_hour
from query_svc.range_plan import RangePlan

# The incomplete hours among some hours, and those of a range: an index probe for each bound inside an hour, and a part
# of the index. It is not run if all bounds are whole hours and nothing has been cleaned up.
_INCOMPLETE = """
SELECT hour FROM erased_hours WHERE site_id = %(site_id)s AND hour = ANY(%(hours)s) UNION ALL
SELECT hour FROM erased_hours WHERE site_id = %(site_id)s AND hour >= %(start)s AND hour < %(end)s
"""

# Whether a range has an incomplete hour.
_ANY_INCOMPLETE = """
SELECT EXISTS (SELECT FROM erased_hours WHERE site_id = %(site_id)s AND hour >= %(start)s AND hour < %(end)s)
"""

_MANY_BOUNDS = 100

Connection = psycopg.Connection[Any]


def incomplete_hours(
    connection: Connection, site_id: int, bounds: Sequence[datetime], hours_from: datetime
) -> frozenset[datetime]:
    """The incomplete hours that a plan with these bounds (ascending) has to respect: those with a bound inside, and
    those before `hours_from`, which may be read from raw events as a whole."""
    hours = {hour for bound in bounds if (hour := floor_hour(bound)) != bound}
    start, end = floor_hour(bounds[0]), min(bounds[-1], hours_from)
    if not hours and start >= end:
        return frozenset()
    # Most sites have none, and thousands of bounds would be sent for nothing.
    if len(hours) > _MANY_BOUNDS and not any_incomplete(connection, site_id, bounds[0], bounds[-1] + HOUR):
        return frozenset()
    parameters = {"site_id": site_id, "hours": list(hours), "start": start, "end": max(start, end)}
    return frozenset(row[0] for row in connection.execute(_INCOMPLETE, parameters))


def reads_raw(plan: RangePlan, incomplete: Collection[datetime]) -> bool:
    """Whether the plan reads any part of the incomplete hours from raw events."""
    return any(edge.start < hour + HOUR and hour < edge.end for hour in incomplete for edge in plan.edges)


def any_incomplete(connection: Connection, site_id: int, start: datetime, end: datetime) -> bool:
    """Whether the range touches an incomplete hour."""
    row = connection.execute(_ANY_INCOMPLETE, {"site_id": site_id, "start": floor_hour(start), "end": end}).fetchone()
    return row is not None and bool(row[0])
