"""The keys that lead in events, without summing up every key's.

A month of five thousand pages is 150,000 day rows. An index gives each day's rows by their events, so a key that is in
no day's first few has in each at most what the last of those has: the sum of these bounds what any key that was not
looked at can have. Where the last of the keys asked for has more, the answer stands; where not, every key is summed up.

Fagin, Lotem, Naor: "Optimal Aggregation Algorithms for Middleware" (2001), its threshold algorithm, all lists read
to one depth.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import psycopg

from common.db import DAY
from common.dimensions import Dimension
from query_svc import sources
from query_svc.range_plan import RangePlan

MOST_ASKED = 25
"""Keys. With more of them the last is hardly ever above what the others can have."""
FEW_KEYS = 500
"""In the last day. So few are summed up faster than their leaders are found."""

_MANY_KEYS = f"""
SELECT count(*) = %(few)s FROM (
    SELECT FROM rollup_shards WHERE site_id = %(site_id)s AND dimension = %(dimension)s AND interval = {DAY}
      AND bucket_start = %(day)s AND shard = 0
    LIMIT %(few)s
) AS a_few
"""

_DAY = timedelta(days=1)


def leading_rows(
    connection: psycopg.Connection[Any], dimension: Dimension, plan: RangePlan, parameters: dict[str, Any]
) -> Sequence[Any] | None:
    """What `sources.counters_per_key` gives for the first by events; None where that has to be asked.

    `parameters` are its parameters.
    """
    limit = parameters["limit"]
    if not plan.days or limit > MOST_ASKED:
        return None
    last = max(piece.end for piece in plan.days) - _DAY
    many = connection.execute(_MANY_KEYS, {**parameters, "day": last, "few": FEW_KEYS}).fetchone()
    if not (many and many[0]):
        return None
    found = connection.execute(sources.leading_keys(dimension, plan), {**parameters, "depth": 3 * limit}).fetchone()
    assert found is not None
    keys, most, others = found
    statement = sources.counters_per_key(dimension, plan, "events", some_keys=True)
    rows = connection.execute(statement, {**parameters, "keys": keys}).fetchall()
    # Equal is not enough: a tie goes by key.
    settled = not others or (len(rows) == limit and rows[-1][1] > most)
    return rows if settled else None
