"""Compaction: deltas are added to the compacted rows of their hour and their day.

A chunk takes deltas of one dimension of one day. In one transaction it deletes them and adds them to the compacted
rows (`delta_no` 0) of their hours and of the day. So at every instant

    day row + the day's deltas = sum of the day's hours, each with its own deltas

and nothing that can be read changes. Counters and both forms of visitor sets are commutative sums, so chunks may take
deltas in any order. A lock excludes two chunks on one dimension of one day at the same time.
"""

from collections.abc import Sequence
from datetime import datetime
from operator import add
from typing import Any, NamedTuple

import psycopg

from admin_svc.chunk import Chunk, Position
from admin_svc.site_lock import enter
from common.dimensions import is_counted
from common.intervals import DAY, RollupInterval, floor_day
from common.locks import compaction_lock
from common.sites import DELETING
from common.timestamps import EPOCH
from common.visitor_sets import merge_counts, merge_sets

DEFAULT_LIMIT = 10_000
MAX_LIMIT = 50_000

# The sites that have deltas.
_SITES_WITH_DELTAS = f"""
SELECT s.site_id FROM sites s
WHERE s.status <> {DELETING} AND EXISTS (SELECT FROM rollup_shards r WHERE r.site_id = s.site_id AND r.delta_no > 0)
ORDER BY s.site_id
"""

# The first delta at or after a place in the index of deltas whose number is not above %(newest)s.
_NEXT_DELTA = """
SELECT dimension, bucket_start FROM rollup_shards
WHERE site_id = %(site_id)s AND delta_no > 0 AND (dimension, bucket_start) >= (%(dimension)s, %(start)s)
  AND delta_no <= %(newest)s
ORDER BY dimension, bucket_start LIMIT 1
"""

# Takes the first deltas of one day and dimension. They are deleted by ctid, which the lock keeps valid. With another
# condition on delta_no the planner may read every delta of the site.
_TAKE_DELTAS = f"""
DELETE FROM rollup_shards
WHERE site_id = %(site_id)s AND ctid = ANY(ARRAY(
    SELECT ctid FROM rollup_shards
    WHERE site_id = %(site_id)s AND interval = {RollupInterval.HOUR} AND dimension = %(dimension)s AND delta_no > 0
      AND bucket_start >= %(start)s AND bucket_start < %(next_day)s
    ORDER BY bucket_start LIMIT %(limit)s
))
RETURNING bucket_start, key, events, pageviews, sessions, bounces, duration_us, new_visitors, visitors
"""

# Some compacted rows, with an index probe for each. Statistics are often from a time when there were only deltas, and a
# join would then read the whole dimension.
_COMPACTED = """
FROM unnest(%(intervals)b::smallint[], %(starts)b::timestamptz[], %(keys)b::text[]) AS w (interval, bucket_start, key)
CROSS JOIN LATERAL (
    SELECT *, ctid FROM rollup_shards
    WHERE site_id = %(site_id)s AND interval = w.interval AND dimension = %(dimension)s
      AND bucket_start = w.bucket_start AND key = w.key AND delta_no = 0 OFFSET 0
) AS r
"""

# The compacted rows that a chunk adds to.
_READ_COMPACTED = f"""
SELECT r.interval, r.bucket_start, r.key, r.events, r.pageviews, r.sessions, r.bounces, r.duration_us,
       r.new_visitors, r.visitors
{_COMPACTED}
"""

# Adds and replaces compacted rows.
_WRITE_COMPACTED = """
INSERT INTO rollup_shards (site_id, dimension, delta_no, interval, bucket_start, key, events, pageviews, sessions,
                           bounces, duration_us, new_visitors, visitors)
SELECT %(site_id)s, %(dimension)s, 0, w.*
FROM unnest(%(intervals)b::smallint[], %(starts)b::timestamptz[], %(keys)b::text[], %(events)b::int[],
            %(pageviews)b::int[], %(sessions)b::int[], %(bounces)b::int[], %(duration_us)b::bigint[],
            %(new_visitors)b::int[], %(visitors)b::bytea[]) AS w
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
_ANY_DELTA = 2**31 - 1

Connection = psycopg.Connection[Any]
Row = tuple[int, datetime, str]
"""Interval, bucket start and key, which identify a compacted row of one site and dimension."""
_Place = tuple[int, datetime]
"""Dimension and hour, in the order in which deltas are compacted."""
_FIRST: _Place = (-1, EPOCH)


class Compacted(NamedTuple):
    """The work of one chunk."""

    deltas: int = 0
    """Deltas that were added to compacted rows."""
    keys: int = 0
    """Compacted rows, of hours and days, that were written."""


_NOTHING = Chunk(Compacted(), has_more=False)


def sites_with_deltas(connection: Connection, _now: datetime) -> list[int]:
    """The numbers of the sites that have deltas."""
    return [row[0] for row in connection.execute(_SITES_WITH_DELTAS)]


def compact(
    connection: Connection, site_id: int, _now: datetime, limit: int, position: Position = ()
) -> Chunk[Compacted]:
    """Compacts up to `limit` deltas of the first dimension and day that no other worker holds, from `position` on.

    Deltas that are appended after the first chunk are left to later runs, so that a run ends while aggregation goes on.
    A chunk of 0 deltas means that none is left from there on, that other workers hold all of them, or that the site
    cannot be entered. Raises the errors of DatabaseFault, and then nothing was done.
    """
    newest, dimension, start = position or (_newest_delta(connection), *_FIRST)
    while (found := _next_delta(connection, site_id, (dimension, start))) is not None:
        dimension, hour = found
        day = floor_day(hour)
        with connection.transaction():
            if not enter(connection, site_id):
                return _NOTHING
            lock = compaction_lock(site_id, dimension, (day - EPOCH).days)
            row = connection.execute("SELECT pg_try_advisory_xact_lock(%s, %s)", lock).fetchone()
            done = _compact_day(connection, site_id, dimension, hour, limit) if row and row[0] else Compacted()
            left = _next_delta(connection, site_id, (dimension, hour), newest) if done.deltas else None
        if done.deltas:
            return Chunk(done, left is not None, () if left is None else (newest, *left))
        # Another worker holds this day or has just compacted it, so the search goes on after it.
        start = day + DAY
    return _NOTHING


def _newest_delta(connection: Connection) -> int:
    """The last delta number given out. No delta has a higher one, unless numbers have begun again after 2^31 chunks."""
    row = connection.execute("SELECT last_value FROM delta_numbers").fetchone()
    assert row is not None
    return int(row[0])


def _next_delta(connection: Connection, site_id: int, place: _Place, newest: int = _ANY_DELTA) -> _Place | None:
    """The place of the first delta at or after `place` with a number up to `newest`; None = there is none."""
    dimension, start = place
    parameters = {"site_id": site_id, "dimension": dimension, "start": start, "newest": newest}
    row = connection.execute(_NEXT_DELTA, parameters).fetchone()
    return None if row is None else (row[0], row[1])


def _compact_day(connection: Connection, site_id: int, dimension: int, start: datetime, limit: int) -> Compacted:
    """Compacts up to `limit` deltas of the day from the hour `start` on, in the caller's transaction, which holds the
    day's lock. Deltas that are appended to earlier hours meanwhile are left to the next run, so that every run ends."""
    where, day = {"site_id": site_id, "dimension": dimension}, floor_day(start)
    deltas = _rows(connection, _TAKE_DELTAS, {**where, "start": start, "next_day": day + DAY, "limit": limit})
    merge = merge_counts if is_counted(dimension) else merge_sets
    sums = _Sums()
    for hour, key, *values in deltas:
        sums.add((RollupInterval.HOUR, hour, key), values)
    # The day gets the sums of its hours, so that each delta's visitors are decoded only once.
    for row, (counters, sets) in list(sums.of.items()):
        sets[:] = [merge(sets)] if sets else []
        sums.add((RollupInterval.DAY, day, row[2]), [*counters, sets[0] if sets else None])
    for interval, at, key, *values in _rows(connection, _READ_COMPACTED, {**where, **_named(list(sums.of))}):
        sums.add((interval, at, key), values)

    left: list[tuple[Row, list[int], bytes | None]] = []
    gone: list[Row] = []
    for row, (counters, sets) in sums.of.items():
        visitors = merge(sets) if sets else None
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
        "starts": [row[1] for row in rows],
        "keys": [row[2] for row in rows],
    }
