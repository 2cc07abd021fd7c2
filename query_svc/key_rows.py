"""Rows of some keys of a range, read at a cost that follows from the rows that exist.

No index leads from a key to its rows, so either each key is probed for in each bucket that has rows, or all rows of
the range are read and those of other keys dropped, whichever is less.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import psycopg

from common.dimensions import Dimension
from common.intervals import DAY, HOUR
from query_svc import key_sql, report_sql
from query_svc.key_sql import Keys
from query_svc.measure import count_visitors
from query_svc.range_plan import Piece, RangePlan

FEW_BUCKETS = 100
"""Buckets of a plan, whether they exist or not, that cost less to probe than to look for."""
FEW_PROBES = 5_000
"""Probes that cost less than to find out whether there are fewer rows."""
ROWS_A_PROBE = 3
"""Rows of a range that are read in the time of a probe."""

Connection = psycopg.Connection[Any]
Parameters = dict[str, Any]


class Buckets(NamedTuple):
    """Starts of buckets: at least those that have compacted rows."""

    days: list[datetime]
    hours: list[datetime]


def buckets_with_rows(connection: Connection, plan: RangePlan, parameters: Parameters) -> Buckets:
    """The buckets of the plan; of a long one only those that have compacted rows of the dimension."""
    if _length(plan.days, DAY) + _length(plan.hours, HOUR) <= FEW_BUCKETS:
        return Buckets(_starts(plan.days, DAY), _starts(plan.hours, HOUR))
    found = Buckets([], [])
    for kind, at in connection.execute(key_sql.BUCKETS_WITH_ROWS, parameters):
        getattr(found, kind).append(at)
    return found


def way_to_rows(
    connection: Connection, plan: RangePlan, parameters: Parameters, keys: Sequence[str]
) -> tuple[Keys, Parameters]:
    """How to read the rollup rows of some keys: for the statements of key_sql, with their parameters."""
    asked = {**parameters, "keys": keys}
    buckets = _length(plan.days, DAY) + _length(plan.hours, HOUR)
    if buckets * len(keys) > FEW_PROBES:
        if _rows_up_to(connection, plan, parameters, FEW_PROBES) < FEW_PROBES:
            return Keys.FILTERED, asked
        found = buckets_with_rows(connection, plan, parameters)
        rows = ROWS_A_PROBE * len(keys) * (len(found.days) + len(found.hours))
        if rows > FEW_PROBES and _rows_up_to(connection, plan, parameters, rows) < rows:
            return Keys.FILTERED, asked
    else:
        found = buckets_with_rows(connection, plan, parameters)
    return Keys.PROBED, {**asked, "days_at": found.days, "hours_at": found.hours}


def visitors_of_keys(
    connection: Connection, dimension: Dimension, plan: RangePlan, parameters: Parameters, keys: Sequence[str]
) -> dict[str, int]:
    """Distinct visitors of each of some keys."""
    sets: defaultdict[str, list[bytes]] = defaultdict(list)
    loose: defaultdict[str, list[int]] = defaultdict(list)
    if keys and (plan.days or plan.hours):
        way, asked = way_to_rows(connection, plan, parameters, keys)
        with connection.cursor(binary=True) as cursor:
            for key, visitors in cursor.execute(key_sql.visitor_rows(plan, way), asked, prepare=False):
                sets[key].append(visitors)
    if keys and plan.edges:
        statement = report_sql.edge_visitors(dimension, some_keys=True)
        for _, key, visitor in connection.execute(statement, {**parameters, "keys": keys}):
            loose[key].append(visitor)
    return {key: count_visitors(dimension, sets.get(key, ()), loose.get(key, ())) for key in keys}


def _rows_up_to(connection: Connection, plan: RangePlan, parameters: Parameters, most: int) -> int:
    found = connection.execute(key_sql.rows_up_to(plan), {**parameters, "most": most}, prepare=False).fetchone()
    assert found is not None
    return int(found[0])


def _length(pieces: Collection[Piece], unit: timedelta) -> int:
    return sum((piece.end - piece.start) // unit for piece in pieces)


def _starts(pieces: Collection[Piece], unit: timedelta) -> list[datetime]:
    return [piece.start + n * unit for piece in pieces for n in range((piece.end - piece.start) // unit)]
