"""Counters and distinct visitors of buckets and keys, read in one snapshot."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

import psycopg
from pyroaring import BitMap

from common.dimensions import OVERVIEW, Dimension, EventDimension
from common.visitor_sets import positive_of_counts, union_of_sets
from query_svc import sources
from query_svc.range_plan import RangePlan

Connection = psycopg.Connection[Any]


class Counters(NamedTuple):
    """Sums over a bucket or a key."""

    events: int
    pageviews: int
    sessions: int
    bounces: int
    duration_us: int
    new_visitors: int


NOTHING = Counters(0, 0, 0, 0, 0, 0)


def measure_buckets(connection: Connection, site_id: int, plan: RangePlan) -> dict[int, tuple[Counters, int]]:
    """Counters and distinct visitors of each bucket of the plan that is not empty, by its number."""
    parameters = sources.parameters(site_id, OVERVIEW, plan)
    rows = connection.execute(sources.counters_per_bucket(OVERVIEW), parameters)
    counters = {n: Counters(*sums) for n, *sums in rows}
    visitors = _visitors(connection, OVERVIEW, plan, parameters, by_key=False, some_keys=False)
    return {n: (sums, visitors.get(n, 0)) for n, sums in counters.items()}


def measure_keys(
    connection: Connection, site_id: int, dimension: Dimension, plan: RangePlan, order: str | None, limit: int
) -> list[tuple[str, Counters, int]]:
    """Key, counters and distinct visitors: the first `limit` keys by `order` (see sources), or all without one."""
    parameters = {**sources.parameters(site_id, dimension, plan), "limit": limit}
    rows = connection.execute(sources.counters_per_key(dimension, order), parameters)
    counters = [(key, Counters(*sums)) for key, *sums in rows]
    parameters["keys"] = [key for key, _ in counters]
    visitors = _visitors(connection, dimension, plan, parameters, by_key=True, some_keys=order is not None)
    return [(key, sums, visitors.get(key, 0)) for key, sums in counters]


def _visitors(
    connection: Connection,
    dimension: Dimension,
    plan: RangePlan,
    parameters: dict[str, Any],
    *,
    by_key: bool,
    some_keys: bool,
) -> dict[Any, int]:
    """Distinct visitors per key or per bucket."""
    group = 1 if by_key else 0
    sets: defaultdict[Any, list[bytes]] = defaultdict(list)
    loose: defaultdict[Any, list[int]] = defaultdict(list)
    if plan.days or plan.hours:
        with connection.cursor(binary=True) as cursor:
            for row in cursor.execute(sources.visitor_rows(dimension, some_keys=some_keys), parameters):
                sets[row[group]].append(row[2])
    if plan.edges:
        for row in connection.execute(sources.edge_visitors(dimension, some_keys=some_keys), parameters):
            loose[row[group]].append(row[2])
    return {
        name: len(_united(dimension, sets.get(name, ())) | BitMap(loose.get(name, ())))
        for name in sets.keys() | loose.keys()
    }


def _united(dimension: Dimension, rows: Iterable[bytes]) -> BitMap:
    return union_of_sets(rows) if isinstance(dimension, EventDimension) else positive_of_counts(rows)
