"""The hours of which a visitor was erased: their raw events tell less than their rollups."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

import psycopg

from query_svc.range_plan import HOUR, RangePlan, floor_hour

# The erased ones of some hours, and of those in a range. A probe of the key for each bound that is asked for, and a
# part of the key; none at all where bounds are whole hours and nothing has been cleaned up.
_ERASED = """
SELECT hour FROM erased_hours WHERE site_id = %(site_id)s AND hour = ANY(%(hours)s) UNION ALL
SELECT hour FROM erased_hours WHERE site_id = %(site_id)s AND hour >= %(start)s AND hour < %(end)s
"""

_ANY_ERASED = """
SELECT EXISTS (SELECT FROM erased_hours WHERE site_id = %(site_id)s AND hour >= %(start)s AND hour < %(end)s)
"""

Connection = psycopg.Connection[Any]


def erased_hours(
    connection: Connection, site_id: int, bounds: Sequence[datetime], hours_from: datetime
) -> frozenset[datetime]:
    """The erased hours that matter to a plan with these bounds (ascending): those with a bound inside, and those
    before `hours_from`, which may be read from raw events as a whole."""
    hours = {hour for bound in bounds if (hour := floor_hour(bound)) != bound}
    start, end = floor_hour(bounds[0]), min(bounds[-1], hours_from)
    if not hours and start >= end:
        return frozenset()
    parameters = {"site_id": site_id, "hours": list(hours), "start": start, "end": max(start, end)}
    return frozenset(row[0] for row in connection.execute(_ERASED, parameters))


def reads_raw(plan: RangePlan, erased: Collection[datetime]) -> bool:
    """Whether anything of the hours is read from raw events."""
    return any(edge.start < hour + HOUR and hour < edge.end for hour in erased for edge in plan.edges)


def any_erased(connection: Connection, site_id: int, start: datetime, end: datetime) -> bool:
    """Whether an hour that the range touches is erased."""
    row = connection.execute(_ANY_ERASED, {"site_id": site_id, "start": floor_hour(start), "end": end}).fetchone()
    return row is not None and bool(row[0])
