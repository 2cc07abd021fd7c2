"""The first keys by events, found without summing up every key.

A month of five thousand pages is 150,000 day rows. An index gives each day's rows by their events. A key that is in no
day's first few has in each day at most the events of the last of those, so the sum of these bounds the events of any
key that was not read. Where the last of the keys asked for has more, the answer is right; else every key is summed up.

Fagin, Lotem, Naor: "Optimal Aggregation Algorithms for Middleware" (2001), its threshold algorithm, all lists read
to one depth.
"""

from collections.abc import Sequence
from typing import Any

import psycopg

from common.dimensions import Dimension
from common.intervals import DAY, RollupInterval
from query_svc import key_sql
from query_svc.key_rows import buckets_with_rows, way_to_rows
from query_svc.range_plan import RangePlan

MOST_ASKED = 25
"""Keys. With more of them the last is hardly ever above what the others can have."""
FEW_KEYS = 500
"""In the last day. So few keys are summed up faster than their first are found."""

_MANY_KEYS = f"""
SELECT count(*) = %(few)s FROM (
    SELECT FROM rollup_shards
    WHERE site_id = %(site_id)s AND dimension = %(dimension)s AND interval = {RollupInterval.DAY}
      AND bucket_start = %(day)s AND delta_no = 0
    LIMIT %(few)s
) AS a_few
"""


def first_by_events(
    connection: psycopg.Connection[Any], dimension: Dimension, plan: RangePlan, parameters: dict[str, Any]
) -> Sequence[Any] | None:
    """What `key_sql.counters_per_key` gives for the first by events; None where that has to be asked.

    `parameters` are its parameters.
    """
    limit = parameters["limit"]
    if not plan.days or limit > MOST_ASKED:
        return None
    last = max(piece.end for piece in plan.days) - DAY
    many = connection.execute(_MANY_KEYS, {**parameters, "day": last, "few": FEW_KEYS}).fetchone()
    if not (many and many[0]):
        return None
    days_at = buckets_with_rows(connection, plan, parameters).days
    asked = {**parameters, "days_at": days_at, "depth": 3 * limit}
    found = connection.execute(key_sql.leading_keys(dimension, plan), asked, prepare=False).fetchone()
    assert found is not None
    keys, most, others = found
    way, asked = way_to_rows(connection, plan, parameters, keys)
    statement = key_sql.counters_per_key(dimension, plan, "events", way)
    rows = connection.execute(statement, asked, prepare=False).fetchall()
    # Equal is not enough: a tie goes by key.
    settled = not others or (len(rows) == limit and rows[-1][1] > most)
    return rows if settled else None
