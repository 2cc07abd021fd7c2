"""Compaction: deltas leave the hours they were written to and join the hour's and the day's folded rows.

A page takes deltas of one dimension of one day. In one transaction they are deleted, added to shard 0 of their
hours and added to shard 0 of the day. So at every instant

    day row + the day's unfolded deltas = sum of the day's hours, each with its own deltas

and nothing that can be read changes. Counters and both forms of visitor sets are commutative sums, so pages may
take deltas in any order. Two pages never work on one dimension of one day at once: each holds its lock.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from operator import add
from typing import Any, NamedTuple

import psycopg

from admin_svc.site_gate import enter
from common.db import DAY, HOUR
from common.dimensions import is_counted
from common.locks import fold_lock
from common.sites import DELETING
from common.timestamps import EPOCH
from common.visitor_sets import merge_counts, merge_sets

DEFAULT_LIMIT = 10_000
MAX_LIMIT = 50_000

# The sites with something to fold.
_SITES_WITH_DELTAS = f"""
SELECT s.site_id FROM sites s
WHERE s.status <> {DELETING} AND EXISTS (SELECT FROM rollup_shards r WHERE r.site_id = s.site_id AND r.shard > 0)
ORDER BY s.site_id
"""

# The first delta at or after a place in the index of deltas, of those up to a shard number.
_NEXT_DELTA = """
SELECT dimension, bucket_start FROM rollup_shards
WHERE site_id = %(site_id)s AND shard > 0 AND (dimension, bucket_start) >= (%(dimension)s, %(start)s)
  AND shard <= %(newest)s
ORDER BY dimension, bucket_start LIMIT 1
"""

# Takes a page of one day's deltas of one dimension. By ctid, which the lock keeps valid; another condition on the
# shard would let the planner walk every delta of the site instead.
_TAKE_DELTAS = f"""
DELETE FROM rollup_shards
WHERE site_id = %(site_id)s AND ctid = ANY(ARRAY(
    SELECT ctid FROM rollup_shards
    WHERE site_id = %(site_id)s AND interval = {HOUR} AND dimension = %(dimension)s AND shard > 0
      AND bucket_start >= %(start)s AND bucket_start < %(next_day)s
    ORDER BY bucket_start LIMIT %(limit)s
))
RETURNING bucket_start, key, events, pageviews, sessions, bounces, duration_us, new_visitors, visitors
"""

# Some folded rows, a probe for each: statistics often know of deltas only, and a join would read the whole dimension.
_FOLDED = """
FROM unnest(%(intervals)b::smallint[], %(starts)b::timestamptz[], %(keys)b::text[]) AS w (interval, bucket_start, key)
CROSS JOIN LATERAL (
    SELECT *, ctid FROM rollup_shards
    WHERE site_id = %(site_id)s AND interval = w.interval AND dimension = %(dimension)s
      AND bucket_start = w.bucket_start AND key = w.key AND shard = 0 OFFSET 0
) AS r
"""

# The folded rows that a page adds to.
_READ_FOLDED = f"""
SELECT r.interval, r.bucket_start, r.key, r.events, r.pageviews, r.sessions, r.bounces, r.duration_us,
       r.new_visitors, r.visitors
{_FOLDED}
"""

# Makes the folded rows what they have become.
_WRITE_FOLDED = """
INSERT INTO rollup_shards (site_id, dimension, shard, interval, bucket_start, key, events, pageviews, sessions, bounces,
                           duration_us, new_visitors, visitors)
SELECT %(site_id)s, %(dimension)s, 0, w.*
FROM unnest(%(intervals)b::smallint[], %(starts)b::timestamptz[], %(keys)b::text[], %(events)b::int[],
            %(pageviews)b::int[], %(sessions)b::int[], %(bounces)b::int[], %(duration_us)b::bigint[],
            %(new_visitors)b::int[], %(visitors)b::bytea[]) AS w
ON CONFLICT (site_id, interval, dimension, bucket_start, key) WHERE shard = 0 DO UPDATE
SET events = excluded.events, pageviews = excluded.pageviews, sessions = excluded.sessions,
    bounces = excluded.bounces, duration_us = excluded.duration_us, new_visitors = excluded.new_visitors,
    visitors = excluded.visitors
"""

# Removes folded rows of which nothing is left, as of an exit page that every session has left behind.
_DELETE_FOLDED = f"""
DELETE FROM rollup_shards WHERE site_id = %(site_id)s AND ctid = ANY(ARRAY(SELECT r.ctid {_FOLDED}))
"""

_COUNTERS = ("events", "pageviews", "sessions", "bounces", "duration_us", "new_visitors")
_ONE_DAY = timedelta(days=1)
_ANY_SHARD = 2**31 - 1

Connection = psycopg.Connection[Any]
Place = tuple[int, datetime, str]
"""Interval, bucket start, key: a folded row of one site and dimension."""
Position = tuple[int, datetime]
"""Dimension and hour, in the order in which deltas are folded."""
START: Position = (-1, EPOCH)


class Folded(NamedTuple):
    """What one page did."""

    shards: int = 0
    """Deltas that were folded."""
    keys: int = 0
    """Folded rows, of hours and days, that they went into."""
    position: Position = START
    """Where they were; what is left begins here."""


def sites_with_deltas(connection: Connection) -> list[int]:
    """The sites with something to fold, by number."""
    return [row[0] for row in connection.execute(_SITES_WITH_DELTAS)]


def run_once(connection: Connection, site_id: int, limit: int, position: Position = START) -> Folded:
    """Folds up to `limit` deltas of one dimension and day that no other worker holds, from the first on that is at or
    after `position`; `connection` is in autocommit.

    An empty Folded: there is nothing to fold there, or others hold all of it, or a rebuild holds the site. Raises a
    DatabaseFault, and then nothing was done.
    """
    dimension, start = position
    while (found := next_delta(connection, site_id, (dimension, start))) is not None:
        dimension, hour = found
        day = hour.replace(hour=0)
        with connection.transaction():
            if not enter(connection, site_id):
                return Folded()
            lock = fold_lock(site_id, dimension, (day - EPOCH).days)
            row = connection.execute("SELECT pg_try_advisory_xact_lock(%s, %s)", lock).fetchone()
            folded = fold_day(connection, site_id, dimension, hour, limit) if row and row[0] else Folded()
        if folded.shards:
            return folded._replace(position=(dimension, hour))
        # Another worker holds this day or has just folded it: go on behind it.
        start = day + _ONE_DAY
    return Folded()


def newest_shard(connection: Connection) -> int:
    """A number that no shard written so far is above, but once in 2^31 pages, when numbers begin anew."""
    row = connection.execute("SELECT last_value FROM shard_numbers").fetchone()
    assert row is not None
    return int(row[0])


def next_delta(connection: Connection, site_id: int, position: Position, newest: int = _ANY_SHARD) -> Position | None:
    """Where the first delta at or after the position is, of shards up to `newest`; None = there is none."""
    dimension, start = position
    parameters = {"site_id": site_id, "dimension": dimension, "start": start, "newest": newest}
    row = connection.execute(_NEXT_DELTA, parameters).fetchone()
    return None if row is None else (row[0], row[1])


def fold_day(connection: Connection, site_id: int, dimension: int, start: datetime, limit: int) -> Folded:
    """Folds up to `limit` deltas of the day from the hour `start` on, in the caller's transaction, which holds the
    day's lock. What is written meanwhile to earlier hours must not keep a run of pages from its end."""
    where, day = {"site_id": site_id, "dimension": dimension}, start.replace(hour=0)
    deltas = _rows(connection, _TAKE_DELTAS, {**where, "start": start, "next_day": day + _ONE_DAY, "limit": limit})
    merge = merge_counts if is_counted(dimension) else merge_sets
    folded = _Sums()
    for hour, key, *row in deltas:
        folded.add((HOUR, hour, key), row)
    # What an hour gains its day gains: the deltas themselves are decoded once.
    for place, (sums, rows) in list(folded.sums.items()):
        rows[:] = [merge(rows)] if rows else []
        folded.add((DAY, day, place[2]), [*sums, rows[0] if rows else None])
    for interval, at, key, *row in _rows(connection, _READ_FOLDED, {**where, **_places(list(folded.sums))}):
        folded.add((interval, at, key), row)

    left: list[tuple[Place, list[int], bytes | None]] = []
    gone: list[Place] = []
    for place, (sums, rows) in folded.sums.items():
        visitors = merge(rows) if rows else None
        if visitors or any(sums):
            left.append((place, sums, visitors or None))
        else:
            gone.append(place)
    if left:
        columns = {name: [sums[index] for _, sums, _ in left] for index, name in enumerate(_COUNTERS)}
        places = _places([place for place, _, _ in left])
        connection.execute(_WRITE_FOLDED, {**where, **places, **columns, "visitors": [row[2] for row in left]})
    if gone:
        connection.execute(_DELETE_FOLDED, {**where, **_places(gone)})
    return Folded(len(deltas), len(left))


class _Sums:
    """Counters and rows of visitors, by the folded row they go into."""

    def __init__(self) -> None:
        self.sums: dict[Place, tuple[list[int], list[bytes]]] = {}

    def add(self, place: Place, row: Sequence[Any]) -> None:
        """Adds a row: six counters and visitors."""
        *counters, visitors = row
        found = self.sums.get(place)
        if found is None:
            self.sums[place] = counters, [visitors] if visitors is not None else []
            return
        sums, rows = found
        sums[:] = map(add, sums, counters)
        if visitors is not None:
            rows.append(visitors)


def _rows(connection: Connection, statement: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
    with connection.cursor(binary=True) as cursor:
        return cursor.execute(statement, parameters).fetchall()


def _places(places: list[Place]) -> dict[str, list[Any]]:
    return {
        "intervals": [place[0] for place in places],
        "starts": [place[1] for place in places],
        "keys": [place[2] for place in places],
    }
