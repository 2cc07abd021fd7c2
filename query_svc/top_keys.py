"""The rows of a top list: its keys by any metric, read in one snapshot."""

from collections.abc import Iterable
from typing import Any

import psycopg

from common.dimensions import Dimension
from query_svc import key_sql
from query_svc.key_rows import visitors_of_keys, way_to_rows
from query_svc.measure import Counters
from query_svc.range_plan import RangePlan
from query_svc.top_by_events import first_by_events
from query_svc.top_by_visitors import first_by_visitors


def first_keys(
    connection: psycopg.Connection[Any],
    site_id: int,
    dimension: Dimension,
    plan: RangePlan,
    order: str | None,
    limit: int,
) -> list[tuple[str, Counters, int]]:
    """Key, counters and distinct visitors of the first `limit` keys by `order` (see key_sql), by visitors where it is
    None; ties go by key. The plan is of one bucket, and the connection in a transaction."""
    if not any(plan):
        return []
    parameters = {**key_sql.parameters(site_id, dimension, plan), "limit": limit}
    if order is None:
        visitors = dict(first_by_visitors(connection, dimension, plan, parameters))
        counters = _counters_of(connection, dimension, plan, parameters, list(visitors))
        return [(key, counters[key], count) for key, count in visitors.items()]
    rows: Iterable[Any] | None = None
    if order == "events":
        rows = first_by_events(connection, dimension, plan, parameters)
    if rows is None:
        rows = connection.execute(key_sql.counters_per_key(dimension, plan, order), parameters, prepare=False)
    counters = {key: Counters(*sums) for key, *sums in rows}
    visitors = visitors_of_keys(connection, dimension, plan, parameters, list(counters))
    return [(key, sums, visitors[key]) for key, sums in counters.items()]


def _counters_of(
    connection: psycopg.Connection[Any],
    dimension: Dimension,
    plan: RangePlan,
    parameters: dict[str, Any],
    keys: list[str],
) -> dict[str, Counters]:
    if not keys:
        return {}
    way, asked = way_to_rows(connection, plan, parameters, keys)
    statement = key_sql.counters_per_key(dimension, plan, None, way)
    return {key: Counters(*sums) for key, *sums in connection.execute(statement, asked, prepare=False)}
