"""The SQL of reports by bucket: rollups for whole days and hours, raw events and sessions for the edges.

`days`, `hours` and `edges` are the pieces of a range plan. A day is read from its compacted row and the deltas of its
hours, an hour from its compacted row and its deltas. A kind without pieces is left out of the statement. Every piece is
read by itself (LATERAL … OFFSET 0). In a plain join the planner expects a ninth of a table in every piece and reads the
whole table.
"""

from collections.abc import Sequence
from typing import Any

from common.aggregated import is_aggregated
from common.dimensions import EVENT, Dimension, EventDimension
from common.intervals import RollupInterval
from common.rebuild_phase import rollups_incomplete
from query_svc.range_plan import Piece, RangePlan

_AGGREGATED = is_aggregated("e")

# Events that are acknowledged and not in the numbers: how many are pending, since when the oldest is, and how many are
# dead letters. Also whether a rebuild has emptied or is about to empty the rollups.
STATE = f"""
SELECT coalesce(sum(last_ord - first_ord + 1), 0)::bigint, min(received_at),
       (SELECT count(*) FROM failed_events f WHERE f.site_id = %(site_id)s),
       EXISTS (SELECT FROM rebuilds r WHERE r.site_id = %(site_id)s AND {rollups_incomplete("r")})
FROM pending_batches WHERE site_id = %(site_id)s
"""

# The values of one property, from raw events. jsonb compares numbers as numbers.
PROPERTY_BREAKDOWN = f"""
SELECT e.properties -> %(property)s AS value, count(*) AS events, count(DISTINCT e.visitor_id) AS visitors
FROM events e
WHERE e.site_id = %(site_id)s AND e.occurred_at >= %(start)s AND e.occurred_at < %(end)s
  AND {EVENT.sql} = %(event_name)s AND e.properties ? %(property)s AND {_AGGREGATED}
GROUP BY 1 ORDER BY 2 DESC, (e.properties -> %(property)s)::text COLLATE "C" LIMIT %(limit)s
"""


def _pieces(name: str) -> str:
    return f"unnest(%({name}_n)s::int[], %({name}_start)s::timestamptz[], %({name}_end)s::timestamptz[])"


# For each kind the condition of its compacted rows.
COMPACTED = {
    "days": f"interval = {RollupInterval.DAY} AND delta_no = 0",
    "hours": f"interval = {RollupInterval.HOUR} AND delta_no = 0",
}


def _rollups(plan: RangePlan, columns: str, condition: str = "") -> list[str]:
    """SELECTs of the columns of every rollup row r of a piece h."""
    kinds = [kind for kind, pieces in (("days", plan.days), ("hours", plan.hours)) if pieces]
    return [
        f"""
        SELECT {columns} FROM {_pieces(kind)} AS h (n, start, stop)
        CROSS JOIN LATERAL (
            SELECT * FROM rollup_shards WHERE site_id = %(site_id)s AND dimension = %(dimension)s
              AND bucket_start >= h.start AND bucket_start < h.stop AND {rows} {condition} OFFSET 0
        ) AS r
        """
        for kind in kinds
        for rows in (COMPACTED[kind], "delta_no > 0")
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

SIX_COUNTERS = "r.events, r.pageviews, r.sessions, r.bounces, r.duration_us, r.new_visitors"

SUMS = """
sum(events)::bigint AS events, sum(pageviews)::bigint AS pageviews, sum(sessions)::bigint AS sessions,
sum(bounces)::bigint AS bounces, sum(duration_us)::bigint AS duration_us, sum(new_visitors)::bigint AS new_visitors
"""

_SESSION_COUNTERS = """
1 AS sessions, (s.pageviews <= 1)::int AS bounces,
(extract(epoch FROM s.ended_at - s.started_at) * 1000000)::bigint AS duration_us, s.new_visitor::int AS new_visitors
"""


def parameters(site_id: int, dimension: Dimension, plan: RangePlan) -> dict[str, Any]:
    """The parameters of the statements of this module."""
    return {
        "site_id": site_id,
        "dimension": dimension.number,
        **_piece_arrays("days", plan.days),
        **_piece_arrays("hours", plan.hours),
        **_piece_arrays("edges", plan.edges),
    }


def rollup_counters(plan: RangePlan, head: int) -> str:
    """Selects n, bucket start, the first `head` bytes of the visitors and the six counters of every rollup row."""
    columns = f"h.n, r.bucket_start, substring(r.visitors FROM 1 FOR {head}), {SIX_COUNTERS}"
    return " UNION ALL ".join(_rollups(plan, columns))


def edge_counters(dimension: Dimension) -> str:
    """Selects n and the six counters of every bucket that has events or sessions in its edges."""
    return f"SELECT n, {SUMS} FROM ({' UNION ALL '.join(edge_rows(dimension))}) AS part GROUP BY n"


def visitor_rows(plan: RangePlan) -> str:
    """Selects n, bucket start and the visitors' bytes of every rollup row."""
    columns = "h.n, r.bucket_start, r.visitors"
    return " UNION ALL ".join(_rollups(plan, columns, "AND visitors IS NOT NULL"))


def edge_visitors(dimension: Dimension, *, some_keys: bool) -> str:
    """Selects n, key and visitor number, each once, of the edges; with `some_keys` only of %(keys)s."""
    if isinstance(dimension, EventDimension):
        only = f"AND {dimension.sql} = ANY(%(keys)s)" if some_keys else f"AND {dimension.sql} IS NOT NULL"
        # An index probe for each visitor. In a plain join the planner reads the whole table of visitors.
        return f"""
        SELECT seen.n, seen.key, v.visitor_no
        FROM (
            SELECT DISTINCT g.n, {dimension.sql} AS key, e.visitor_id {_EVENTS} WHERE {_AGGREGATED} {only}
        ) AS seen
        CROSS JOIN LATERAL (
            SELECT visitor_no FROM visitors WHERE site_id = %(site_id)s AND visitor_id = seen.visitor_id OFFSET 0
        ) AS v
        """
    column = f"s.{dimension.column}"
    only = f"{column} = ANY(%(keys)s)" if some_keys else f"{column} IS NOT NULL"
    return f"SELECT DISTINCT g.n, {column} AS key, s.visitor_no {_SESSIONS} WHERE {only}"


def edge_rows(dimension: Dimension, *, some_keys: bool = False) -> list[str]:
    """SELECTs of n, key and counters of each raw event and of each session of the edges; with `some_keys` only of
    %(keys)s."""
    is_asked = "= ANY(%(keys)s)" if some_keys else "IS NOT NULL"
    if not isinstance(dimension, EventDimension):
        column = f"s.{dimension.column}"
        return [
            f"SELECT g.n, {column} AS key, s.events, s.pageviews, {_SESSION_COUNTERS} {_SESSIONS} "
            f"WHERE {column} {is_asked}"
        ]
    column = f"s.{dimension.column}" if dimension.column else "''"
    return [
        f"SELECT g.n, {dimension.sql} AS key, 1 AS events, (e.type = 1)::int AS pageviews, 0 AS sessions, "
        f"0 AS bounces, 0 AS duration_us, 0 AS new_visitors {_EVENTS} "
        f"WHERE {dimension.sql} {is_asked} AND {_AGGREGATED}",
        f"SELECT g.n, {column} AS key, 0 AS events, 0 AS pageviews, {_SESSION_COUNTERS} {_SESSIONS} "
        f"WHERE {column} {is_asked}",
    ]


def _piece_arrays(name: str, pieces: Sequence[Piece]) -> dict[str, list[Any]]:
    return {
        f"{name}_n": [piece.bucket for piece in pieces],
        f"{name}_start": [piece.start for piece in pieces],
        f"{name}_end": [piece.end for piece in pieces],
    }
