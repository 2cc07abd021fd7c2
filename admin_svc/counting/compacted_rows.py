"""The rows that a chunk of compaction takes, reads and writes.

Every statement is of several dimensions, so a site with few deltas of each costs a chunk as few round trips as one with
many of one.
"""

from collections.abc import Sequence
from datetime import datetime
from operator import add
from typing import Any, NamedTuple

import psycopg

from common.dimensions import is_counted
from common.intervals import DAY, RollupInterval, floor_day
from common.visitor_sets import merge_counts, merge_sets

# Takes deltas of some days, each of one dimension from an hour on. They are deleted by ctid, which the days' locks keep
# valid. With another condition on delta_no the planner may read every delta of the site.
_TAKE_DELTAS = f"""
DELETE FROM rollup_shards
WHERE site_id = %(site_id)s AND ctid = ANY(ARRAY(
    SELECT r.ctid
    FROM unnest(%(dimensions)b::smallint[], %(starts)b::timestamptz[], %(next_days)b::timestamptz[])
        AS w (dimension, start, next_day)
    CROSS JOIN LATERAL (
        SELECT ctid FROM rollup_shards
        WHERE site_id = %(site_id)s AND interval = {RollupInterval.HOUR} AND dimension = w.dimension AND delta_no > 0
          AND bucket_start >= w.start AND bucket_start < w.next_day
        ORDER BY bucket_start LIMIT %(limit)s
    ) AS r
    LIMIT %(limit)s
))
RETURNING dimension, bucket_start, key, events, pageviews, sessions, bounces, duration_us, new_visitors, visitors
"""

# Some compacted rows, with an index probe for each. Statistics are often from a time when there were only deltas, and a
# join would then read whole dimensions.
_COMPACTED = """
FROM unnest(%(dimensions)b::smallint[], %(intervals)b::smallint[], %(starts)b::timestamptz[], %(keys)b::text[])
    AS w (dimension, interval, bucket_start, key)
CROSS JOIN LATERAL (
    SELECT *, ctid FROM rollup_shards
    WHERE site_id = %(site_id)s AND interval = w.interval AND dimension = w.dimension
      AND bucket_start = w.bucket_start AND key = w.key AND delta_no = 0 OFFSET 0
) AS r
"""

# The compacted rows that a chunk adds to.
_READ_COMPACTED = f"""
SELECT r.interval, r.dimension, r.bucket_start, r.key, r.events, r.pageviews, r.sessions, r.bounces, r.duration_us,
       r.new_visitors, r.visitors
{_COMPACTED}
"""

# Adds and replaces compacted rows.
_WRITE_COMPACTED = """
INSERT INTO rollup_shards (site_id, dimension, delta_no, interval, bucket_start, key, events, pageviews, sessions,
                           bounces, duration_us, new_visitors, visitors)
SELECT %(site_id)s, w.dimension, 0, w.interval, w.bucket_start, w.key, w.events, w.pageviews, w.sessions, w.bounces,
       w.duration_us, w.new_visitors, w.visitors
FROM unnest(%(dimensions)b::smallint[], %(intervals)b::smallint[], %(starts)b::timestamptz[], %(keys)b::text[],
            %(events)b::int[], %(pageviews)b::int[], %(sessions)b::int[], %(bounces)b::int[], %(duration_us)b::bigint[],
            %(new_visitors)b::int[], %(visitors)b::bytea[])
    AS w (dimension, interval, bucket_start, key, events, pageviews, sessions, bounces, duration_us, new_visitors,
          visitors)
ON CONFLICT (site_id, interval, dimension, bucket_start, key) WHERE delta_no = 0 DO UPDATE
SET events = excluded.events, pageviews = excluded.pageviews, sessions = excluded.sessions,
    bounces = excluded.bounces, duration_us = excluded.duration_us, new_visitors = excluded.new_visitors,
    visitors = excluded.visitors
"""

# Deletes compacted rows of which nothing is left, such as that of an exit page that no session has any more.
_DELETE_COMPACTED = f"""
DELETE FROM rollup_shards WHERE site_id = %(site_id)s AND ctid = ANY(ARRAY(SELECT r.ctid {_COMPACTED}))
"""

_COUNTERS = ("events", "pageviews", "sessions", "bounces", "duration_us", "new_visitors")

Connection = psycopg.Connection[Any]
Row = tuple[int, int, datetime, str]
"""Interval, dimension, bucket start and key, which identify a compacted row of one site."""
Place = tuple[int, datetime]
"""Dimension and hour, in the order in which deltas are compacted."""


class Compacted(NamedTuple):
    """The work of one chunk."""

    deltas: int = 0
    """Deltas that were added to compacted rows."""
    keys: int = 0
    """Compacted rows, of hours and days, that were written."""


def compact_days(connection: Connection, site_id: int, places: Sequence[Place], limit: int) -> Compacted:
    """Compacts up to `limit` deltas of the days of the places, each from its hour on.

    The caller's transaction holds the days' locks. Deltas that are appended to earlier hours meanwhile are left to the
    next run, so that every run ends.
    """
    where = {"site_id": site_id}
    parameters = {
        "dimensions": [dimension for dimension, _ in places],
        "starts": [hour for _, hour in places],
        "next_days": [floor_day(hour) + DAY for _, hour in places],
        "limit": limit,
    }
    sums = _Sums()
    deltas = _rows(connection, _TAKE_DELTAS, {**where, **parameters})
    for dimension, hour, key, *values in deltas:
        sums.add((RollupInterval.HOUR, dimension, hour, key), values)
    # A day gets the sums of its hours, so that each delta's visitors are decoded only once.
    for (_, dimension, hour, key), (counters, sets) in list(sums.of.items()):
        sets[:] = [_merge(dimension, sets)] if sets else []
        sums.add((RollupInterval.DAY, dimension, floor_day(hour), key), [*counters, sets[0] if sets else None])
    for interval, dimension, at, key, *values in _rows(connection, _READ_COMPACTED, {**where, **_named(list(sums.of))}):
        sums.add((interval, dimension, at, key), values)

    left: list[tuple[Row, list[int], bytes | None]] = []
    gone: list[Row] = []
    # Hours before days, each by dimension: so does cleanup lock rows, and neither waits for the other in a circle.
    for row, (counters, sets) in sorted(sums.of.items()):
        visitors = _merge(row[1], sets) if sets else None
        if visitors or any(counters):
            left.append((row, counters, visitors or None))
        else:
            gone.append(row)
    if left:
        columns = {name: [counters[index] for _, counters, _ in left] for index, name in enumerate(_COUNTERS)}
        named = _named([row for row, _, _ in left])
        connection.execute(_WRITE_COMPACTED, {**where, **named, **columns, "visitors": [one[2] for one in left]})
    if gone:
        connection.execute(_DELETE_COMPACTED, {**where, **_named(gone)})
    return Compacted(len(deltas), len(left))


def _merge(dimension: int, sets: list[bytes]) -> bytes:
    return merge_counts(sets) if is_counted(dimension) else merge_sets(sets)


class _Sums:
    """Counters and visitor sets, by the compacted row that they are added to."""

    def __init__(self) -> None:
        self.of: dict[Row, tuple[list[int], list[bytes]]] = {}

    def add(self, row: Row, values: Sequence[Any]) -> None:
        """Adds six counters and a visitor set, which may be None."""
        *counters, visitors = values
        found = self.of.get(row)
        if found is None:
            self.of[row] = counters, [visitors] if visitors is not None else []
            return
        sums, sets = found
        sums[:] = map(add, sums, counters)
        if visitors is not None:
            sets.append(visitors)


def _rows(connection: Connection, statement: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
    with connection.cursor(binary=True) as cursor:
        return cursor.execute(statement, parameters).fetchall()


def _named(rows: list[Row]) -> dict[str, list[Any]]:
    """The parameters with which a statement identifies several compacted rows."""
    return {
        "intervals": [int(row[0]) for row in rows],
        "dimensions": [row[1] for row in rows],
        "starts": [row[2] for row in rows],
        "keys": [row[3] for row in rows],
    }
