"""The first keys by events, found without summing up every key.

A month of five thousand pages is 150,000 day rows. An index gives the rows of a day by their events, and only the first
few are read. A key that is not among them has in each day at most as many events as the last that was read. The sum of
these is a bound on the events of any key that was not read. If the last of the keys asked for has more, the answer is
right; if not, every key is summed up.

This is the threshold algorithm of Fagin, Lotem and Naor, "Optimal Aggregation Algorithms for Middleware" (2001), with
all lists read to one depth.
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
"""How many keys may be asked for. If there are more, the last hardly ever has more events than the bound."""
FEW_KEYS = 500
"""If the last day has fewer keys, it is faster to sum up all of them."""

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
    """The rows of `key_sql.counters_per_key`, first by events; None if that statement has to be run.

    `parameters` are those of that statement.
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
    # As many events as the bound are not enough: ties are in the order of the key.
    settled = not others or (len(rows) == limit and rows[-1][1] > most)
    return rows if settled else None
