"""The sources of every number, as SQL: rollups for whole days and hours, raw events and sessions for the edges.

Each statement reads all of them in the snapshot it is run in. `days`, `hours` and `edges` are the pieces of a range
plan. A day is its row and its hours' deltas that are not folded into it yet. A source without pieces is left out of
the statement, and every piece is read by itself (LATERAL … OFFSET 0): joined plainly, the planner expects a ninth of
a table in every piece and reads the whole of it.
"""

from collections.abc import Sequence
from typing import Any

from common.db import DAY, HOUR
from common.dimensions import Dimension, EventDimension
from query_svc.range_plan import Piece, RangePlan

COUNTED = """
NOT EXISTS (
    SELECT FROM pending_batches p
    WHERE p.site_id = e.site_id AND p.batch_id = e.batch_id AND e.ord BETWEEN p.first_ord AND p.last_ord
)
AND NOT EXISTS (
    SELECT FROM failed_events f WHERE f.site_id = e.site_id AND f.batch_id = e.batch_id AND f.ord = e.ord
)
"""
"""Of an event e: it is aggregated, so that raw reads agree with the rollups."""


def _pieces(name: str) -> str:
    return f"unnest(%({name}_n)s::int[], %({name}_start)s::timestamptz[], %({name}_end)s::timestamptz[])"


# By source, the rows of rollups that are read of it.
_WHICH = {
    "days": (f"interval = {DAY}", f"interval = {HOUR} AND shard > 0"),
    "hours": (f"interval = {HOUR}",),
}


def _rollups(plan: RangePlan, columns: str, condition: str = "") -> list[str]:
    """Selects of the columns of every rollup row r of a piece h."""
    return [
        f"""
        SELECT {columns} FROM {_pieces(source)} AS h (n, start, stop)
        CROSS JOIN LATERAL (
            SELECT * FROM rollup_shards WHERE site_id = %(site_id)s AND dimension = %(dimension)s AND {which}
              AND bucket_start >= h.start AND bucket_start < h.stop {condition} OFFSET 0
        ) AS r
        """
        for source, pieces in (("days", plan.days), ("hours", plan.hours))
        for which in _WHICH[source]
        if pieces
    ]


_EVENTS = f"""
FROM {_pieces("edges")} AS g (n, start, stop)
CROSS JOIN LATERAL (
    SELECT * FROM events WHERE site_id = %(site_id)s AND occurred_at >= g.start AND occurred_at < g.stop OFFSET 0
) AS e
"""

_SESSIONS = f"""
FROM {_pieces("edges")} AS g (n, start, stop)
CROSS JOIN LATERAL (
    SELECT * FROM sessions WHERE site_id = %(site_id)s AND started_at >= g.start AND started_at < g.stop OFFSET 0
) AS s
"""

_SUMS = """
sum(events)::bigint AS events, sum(pageviews)::bigint AS pageviews, sum(sessions)::bigint AS sessions,
sum(bounces)::bigint AS bounces, sum(duration_us)::bigint AS duration_us, sum(new_visitors)::bigint AS new_visitors
"""

_SESSION_COUNTERS = """
1 AS sessions, (s.pageviews <= 1)::int AS bounces,
(extract(epoch FROM s.ended_at - s.started_at) * 1000000)::bigint AS duration_us, s.new_visitor::int AS new_visitors
"""


def parameters(site_id: int, dimension: Dimension, plan: RangePlan) -> dict[str, Any]:
    """What the statements of this module take."""
    return {
        "site_id": site_id,
        "dimension": dimension.number,
        **_piece_arrays("days", plan.days),
        **_piece_arrays("hours", plan.hours),
        **_piece_arrays("edges", plan.edges),
    }


def rollup_counters(plan: RangePlan) -> str:
    """n, bucket start and the six counters of every rollup row."""
    counters = "r.events, r.pageviews, r.sessions, r.bounces, r.duration_us, r.new_visitors"
    return " UNION ALL ".join(_rollups(plan, f"h.n, r.bucket_start, {counters}"))


def edge_counters(dimension: Dimension) -> str:
    """n and the six counters of every piece of the edges that has any."""
    return f"SELECT n, {_SUMS} FROM ({' UNION ALL '.join(_edges(dimension))}) AS part GROUP BY n"


def counters_per_key(dimension: Dimension, plan: RangePlan, order: str | None) -> str:
    """key and the six counters of every key with something to count; the first %(limit)s by `order` if given.

    `order` is an SQL expression over the counters, descending; ties go by key.
    """
    columns = "h.n, r.key, r.events, r.pageviews, r.sessions, r.bounces, r.duration_us, r.new_visitors"
    parts = [*_rollups(plan, columns), *(_edges(dimension) if plan.edges else ())]
    ranking = f'ORDER BY {order} DESC, key COLLATE "C" LIMIT %(limit)s' if order else ""
    return f"""
    SELECT * FROM (SELECT key, {_SUMS} FROM ({" UNION ALL ".join(parts)}) AS part GROUP BY key) AS total
    WHERE events <> 0 OR sessions <> 0 {ranking}
    """


def visitor_rows(plan: RangePlan, *, some_keys: bool, head: int | None = None) -> str:
    """n, key, bucket start and the visitors' bytes (the first `head` if given) of every rollup row; with `some_keys`
    only of %(keys)s."""
    only = "AND key = ANY(%(keys)s)" if some_keys else ""
    visitors = "r.visitors" if head is None else f"substring(r.visitors FROM 1 FOR {head})"
    return " UNION ALL ".join(
        _rollups(plan, f"h.n, r.key, r.bucket_start, {visitors}", f"AND visitors IS NOT NULL {only}")
    )


def edge_visitors(dimension: Dimension, *, some_keys: bool) -> str:
    """n, key and visitor number, each once, of the edges; with `some_keys` only of %(keys)s."""
    if isinstance(dimension, EventDimension):
        only = f"AND {dimension.sql} = ANY(%(keys)s)" if some_keys else f"AND {dimension.sql} IS NOT NULL"
        return f"""
        SELECT DISTINCT g.n, {dimension.sql} AS key, v.visitor_no {_EVENTS}
        JOIN visitors v ON v.site_id = %(site_id)s AND v.visitor_id = e.visitor_id
        WHERE {COUNTED} {only}
        """
    column = f"s.{dimension.column}"
    only = f"{column} = ANY(%(keys)s)" if some_keys else f"{column} IS NOT NULL"
    return f"SELECT DISTINCT g.n, {column} AS key, s.visitor_no {_SESSIONS} WHERE {only}"


def _edges(dimension: Dimension) -> list[str]:
    """Selects of n, key and counters of each raw event and of each session of the edges."""
    if not isinstance(dimension, EventDimension):
        column = f"s.{dimension.column}"
        return [
            f"SELECT g.n, {column} AS key, s.events, s.pageviews, {_SESSION_COUNTERS} {_SESSIONS} "
            f"WHERE {column} IS NOT NULL"
        ]
    column = f"s.{dimension.column}" if dimension.column else "''"
    return [
        f"SELECT g.n, {dimension.sql} AS key, 1 AS events, (e.type = 1)::int AS pageviews, 0 AS sessions, "
        f"0 AS bounces, 0 AS duration_us, 0 AS new_visitors {_EVENTS} WHERE {dimension.sql} IS NOT NULL AND {COUNTED}",
        f"SELECT g.n, {column} AS key, 0 AS events, 0 AS pageviews, {_SESSION_COUNTERS} {_SESSIONS} "
        f"WHERE {column} IS NOT NULL",
    ]


def _piece_arrays(name: str, pieces: Sequence[Piece]) -> dict[str, list[Any]]:
    return {
        f"{name}_n": [piece.bucket for piece in pieces],
        f"{name}_start": [piece.start for piece in pieces],
        f"{name}_end": [piece.end for piece in pieces],
    }
