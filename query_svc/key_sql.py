"""The SQL of reports by key, over a range that is one bucket.

Its plan has a few pieces only. Each is a range of an index with bounds of its own, so that the planner knows how much
it holds and reads many rows in the order of the heap. The statements have to be planned anew each time for that
(prepare=False).
"""

from collections.abc import Sequence
from enum import Enum, auto
from typing import Any

from common.dimensions import Dimension, EventDimension
from common.intervals import RollupInterval
from common.visitor_sets import cardinality_sql
from query_svc import report_sql
from query_svc.range_plan import Piece, RangePlan


class Keys(Enum):
    """Which rollup rows a statement reads."""

    ALL = auto()
    """Those of every key."""
    FILTERED = auto()
    """Those of %(keys)s, out of all rows of the range."""
    PROBED = auto()
    """Those of %(keys)s: one probe for each key and bucket of %(days_at)s and %(hours_at)s, which hold every bucket
    with compacted rows, and the deltas of the range."""


_COMPACTED = tuple(report_sql.COMPACTED.items())
_INTERVALS = {"days": RollupInterval.DAY, "hours": RollupInterval.HOUR}

# The starts of buckets that have compacted rows, each found behind the one before: as many probes as there are such
# buckets, however long the range is.
_STARTS = """
SELECT '{kind}', b.at FROM unnest(%({kind}_start)s::timestamptz[], %({kind}_end)s::timestamptz[]) AS h (start, stop)
CROSS JOIN LATERAL (
    WITH RECURSIVE found (at) AS (
        (SELECT bucket_start FROM rollup_shards
         WHERE site_id = %(site_id)s AND dimension = %(dimension)s AND {rows}
           AND bucket_start >= h.start AND bucket_start < h.stop
         ORDER BY bucket_start LIMIT 1)
        UNION ALL
        SELECT (SELECT bucket_start FROM rollup_shards
                WHERE site_id = %(site_id)s AND dimension = %(dimension)s AND {rows}
                  AND bucket_start > found.at AND bucket_start < h.stop
                ORDER BY bucket_start LIMIT 1)
        FROM found WHERE found.at IS NOT NULL
    )
    SELECT at FROM found WHERE at IS NOT NULL
) AS b
"""
BUCKETS_WITH_ROWS = " UNION ALL ".join(_STARTS.format(kind=kind, rows=rows) for kind, rows in _COMPACTED)


def parameters(site_id: int, dimension: Dimension, plan: RangePlan) -> dict[str, Any]:
    """What the statements of this module take, but for keys, limits and buckets to probe."""
    found = report_sql.parameters(site_id, dimension, plan)
    for kind, pieces in _pieces(plan):
        for number, piece in enumerate(pieces):
            found |= {f"{kind}_start_{number}": piece.start, f"{kind}_end_{number}": piece.end}
    return found


def rows_up_to(plan: RangePlan) -> str:
    """How many compacted rows the range has; %(most)s where there are more."""
    parts = [
        f"SELECT FROM rollup_shards AS r WHERE {_place(kind, number)} AND {rows}"
        for (kind, rows), (_, pieces) in zip(_COMPACTED, _pieces(plan), strict=True)
        for number in range(len(pieces))
    ]
    return f"SELECT count(*) FROM ({' UNION ALL '.join(parts)} LIMIT %(most)s) AS a_few"


def counters_per_key(dimension: Dimension, plan: RangePlan, order: str | None, keys: Keys = Keys.ALL) -> str:
    """key and the six counters of every key with something to count; the first %(limit)s by `order` if given.

    `order` is an SQL expression over the counters, descending; ties go by key.
    """
    parts = _rollups(plan, f"r.key, {report_sql.SIX_COUNTERS}", keys)
    if plan.edges:
        parts += [
            f"SELECT key, events, pageviews, sessions, bounces, duration_us, new_visitors FROM ({part}) AS edge"
            for part in report_sql.edge_rows(dimension, some_keys=keys is not Keys.ALL)
        ]
    ranking = f'ORDER BY {order} DESC, key COLLATE "C" LIMIT %(limit)s' if order else ""
    return f"""
    SELECT * FROM (SELECT key, {report_sql.SUMS} FROM ({" UNION ALL ".join(parts)}) AS part GROUP BY key) AS total
    WHERE events <> 0 OR sessions <> 0 {ranking}
    """


def bounds_per_key(dimension: Dimension, plan: RangePlan) -> str:
    """key and the fewest and most distinct visitors it can have, of every key with something to count; by the most,
    descending, then by key; from %(offset)s on, at most %(limit)s (NULL = all).

    A union has at least as many members as its largest set and at most as many as all of them together. Of a session
    dimension rows can take visitors away, but every visitor left has a session: there are at most as many as sessions,
    and one if there are any.
    """
    if isinstance(dimension, EventDimension):
        visitors, at_edges = cardinality_sql("r.visitors"), "events"
        bounds = "max(visitors)::bigint AS fewest, sum(visitors)::bigint AS most"
    else:
        visitors, at_edges = "r.sessions", "sessions"
        bounds = "(sum(visitors) > 0)::int::bigint AS fewest, sum(visitors)::bigint AS most"
    parts = _rollups(plan, f"r.key, r.events, r.sessions, {visitors} AS visitors", Keys.ALL)
    if plan.edges:
        parts += [
            f"SELECT key, events, sessions, {at_edges} AS visitors FROM ({part}) AS edge"
            for part in report_sql.edge_rows(dimension)
        ]
    return f"""
    SELECT key, {bounds} FROM ({" UNION ALL ".join(parts)}) AS part
    GROUP BY key HAVING sum(events) <> 0 OR sum(sessions) <> 0
    ORDER BY most DESC, key COLLATE "C" LIMIT %(limit)s OFFSET %(offset)s
    """


def leading_keys(dimension: Dimension, plan: RangePlan) -> str:
    """One row: the first keys by events, the most events that any other key can have, and whether there may be
    others at all. See query_svc/top_by_events.py.

    The lists are those of the days of %(days_at)s, which hold every day with compacted rows, each led by %(depth)s
    keys of its index, and one of all that is not a day's row.
    """
    rest = _rollups(plan._replace(days=[]), "r.key, r.events", Keys.ALL)
    rest += _deltas("days", plan.days, "r.key, r.events", Keys.ALL)
    if plan.edges:
        rest += [f"SELECT key, events FROM ({part}) AS edge" for part in report_sql.edge_rows(dimension)]
    return f"""
    WITH listed AS (
        SELECT d.at, r.key, r.events
        FROM unnest(%(days_at)s::timestamptz[]) AS d (at)
        CROSS JOIN LATERAL (
            SELECT key, events FROM rollup_shards
            WHERE site_id = %(site_id)s AND dimension = %(dimension)s AND interval = {RollupInterval.DAY}
              AND bucket_start = d.at
            ORDER BY events DESC LIMIT %(depth)s
        ) AS r
        UNION ALL (
            SELECT NULL, key, sum(events) FROM ({" UNION ALL ".join(rest)}) AS part
            GROUP BY key ORDER BY 3 DESC LIMIT %(depth)s
        )
    ), ends AS (
        SELECT count(*) = %(depth)s AS cut, min(events) AS fewest FROM listed GROUP BY at
    )
    SELECT (SELECT coalesce(array_agg(DISTINCT key), '{{}}') FROM listed),
           coalesce(sum(greatest(fewest, 0)) FILTER (WHERE cut), 0)::bigint,
           coalesce(bool_or(cut), false)
    FROM ends
    """


def visitor_rows(plan: RangePlan, keys: Keys) -> str:
    """key and the visitors' bytes of every rollup row of %(keys)s."""
    return " UNION ALL ".join(_rollups(plan, "r.key, r.visitors", keys, "AND visitors IS NOT NULL"))


def _pieces(plan: RangePlan) -> tuple[tuple[str, Sequence[Piece]], ...]:
    return ("days", plan.days), ("hours", plan.hours)


def _place(kind: str, number: int) -> str:
    return (
        "r.site_id = %(site_id)s AND r.dimension = %(dimension)s "
        f"AND r.bucket_start >= %({kind}_start_{number})s AND r.bucket_start < %({kind}_end_{number})s"
    )


def _rollups(plan: RangePlan, columns: str, keys: Keys, condition: str = "") -> list[str]:
    """Selects of the columns of every rollup row r of the plan."""
    found = []
    for kind, pieces in _pieces(plan):
        if keys is Keys.PROBED:
            found += [_probes(kind, columns, condition)] if pieces else []
        else:
            rows = f"{report_sql.COMPACTED[kind]} {condition}"
            found += [_range(kind, number, columns, rows, keys) for number in range(len(pieces))]
        found += _deltas(kind, pieces, columns, keys, condition)
    return found


def _deltas(kind: str, pieces: Sequence[Piece], columns: str, keys: Keys, condition: str = "") -> list[str]:
    # No index finds deltas by their key.
    rows = f"r.delta_no > 0 {condition}"
    return [_range(kind, number, columns, rows, keys) for number in range(len(pieces))]


def _range(kind: str, number: int, columns: str, rows: str, keys: Keys) -> str:
    only = "" if keys is Keys.ALL else "AND r.key = ANY(%(keys)s)"
    return f"SELECT {columns} FROM rollup_shards AS r WHERE {_place(kind, number)} AND {rows} {only}"


def _probes(kind: str, columns: str, condition: str) -> str:
    # The interval comes from a row: were it a constant, the index of days by events would do as well, and without
    # statistics the planner takes that one, which reads all keys of a day for each probe.
    return f"""
    SELECT {columns} FROM unnest(%({kind}_at)s::timestamptz[]) AS b (at)
    CROSS JOIN unnest(%(keys)s::text[]) AS k (key)
    CROSS JOIN (SELECT {_INTERVALS[kind]}::smallint AS interval OFFSET 0) AS i
    CROSS JOIN LATERAL (
        SELECT * FROM rollup_shards WHERE site_id = %(site_id)s AND dimension = %(dimension)s
          AND interval = i.interval AND bucket_start = b.at AND key = k.key AND delta_no = 0 {condition} OFFSET 0
    ) AS r
    """
