"""The first keys by distinct visitors, found without uniting the sets of every key.

The heads of a key's sets bound its union from both sides (see key_sql.bounds_per_key). Keys are looked at by their
upper bound, descending. A key that cannot come before the last of those asked for is not read, and when the next key
cannot, none behind it can.
"""

from collections.abc import Iterator, Sequence
from heapq import nsmallest
from typing import Any, NamedTuple

import psycopg

from common.dimensions import Dimension
from query_svc import key_sql
from query_svc.key_rows import visitors_of_keys
from query_svc.range_plan import RangePlan

FIRST_BATCH = 100
"""Keys that are looked at first, beside twice as many as were asked for."""
MOST_KEYS = 5_000
"""Keys whose sets are in memory at once."""

Connection = psycopg.Connection[Any]
_Rank = tuple[int, bytes]
"""Sorts keys: most visitors first, ties by the key's bytes."""


class _Bounded(NamedTuple):
    key: str
    fewest: int
    most: int

    @property
    def best(self) -> _Rank:
        """The best rank the key can have."""
        return -self.most, self.key.encode()

    @property
    def worst(self) -> _Rank:
        """The worst one."""
        return -self.fewest, self.key.encode()


def first_by_visitors(
    connection: Connection, dimension: Dimension, plan: RangePlan, parameters: dict[str, Any]
) -> list[tuple[str, int]]:
    """Key and distinct visitors of the first %(limit)s keys by visitors; ties go by key.

    `parameters` are those of key_sql. The connection must be in a transaction.
    """
    limit = parameters["limit"]
    leaders: list[_Bounded] = []
    for batch in _by_upper_bound(connection, dimension, plan, parameters):
        last = _last_rank(leaders + batch, limit)
        near = [row for row in batch if last is None or row.best <= last]
        leaders = nsmallest(limit, leaders + _settled(connection, dimension, plan, parameters, near), _rank)
        if len(leaders) == limit and _rank(leaders[-1]) <= batch[-1].best:
            break
    return [(row.key, row.most) for row in leaders]


def _by_upper_bound(
    connection: Connection, dimension: Dimension, plan: RangePlan, parameters: dict[str, Any]
) -> Iterator[list[_Bounded]]:
    """All keys by their best rank, in batches that grow; no two statements for them unless the first does not do."""
    statement = key_sql.bounds_per_key(dimension, plan)
    size = min(FIRST_BATCH + 2 * parameters["limit"], MOST_KEYS)
    asked = {**parameters, "limit": size, "offset": 0}
    rows = connection.execute(statement, asked, prepare=False).fetchall()
    if rows:
        yield [_Bounded(*row) for row in rows]
    if len(rows) < size:
        return
    # Sorting all of them takes as long as summing them up: only now.
    with connection.cursor(name="keys_by_bound") as cursor:
        cursor.execute(statement, {**asked, "limit": None, "offset": size})
        while rows := cursor.fetchmany(size := min(4 * size, MOST_KEYS)):
            yield [_Bounded(*row) for row in rows]


def _last_rank(rows: Sequence[_Bounded], limit: int) -> _Rank | None:
    """The worst rank that the last of the first `limit` keys can have; None where there are not so many."""
    worst = nsmallest(limit, (row.worst for row in rows))
    return worst[-1] if len(worst) == limit else None


def _rank(row: _Bounded) -> _Rank:
    return row.best


def _settled(
    connection: Connection,
    dimension: Dimension,
    plan: RangePlan,
    parameters: dict[str, Any],
    rows: Sequence[_Bounded],
) -> list[_Bounded]:
    """The rows with their exact number as both bounds; sets are read only of those whose bounds differ."""
    open_keys = [row.key for row in rows if row.fewest != row.most]
    found = visitors_of_keys(connection, dimension, plan, parameters, open_keys)
    return [row._replace(fewest=count, most=count) for row in rows for count in [found.get(row.key, row.most)]]
