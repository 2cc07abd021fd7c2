"""Compaction: deltas are added to the compacted rows of their hour and their day.

A chunk takes deltas of up to 100 days, each of one dimension. In one transaction it deletes them and adds them to the
compacted rows (`delta_no` 0) of their hours and of their days. So at every instant

    day row + the day's deltas = sum of the day's hours, each with its own deltas

and nothing that can be read changes. Counters and both forms of visitor sets are commutative sums, so chunks may take
deltas in any order. A lock excludes two chunks on one dimension of one day at the same time.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import psycopg

from admin_svc.chunk import Chunk, Position
from admin_svc.counting.compacted_rows import Compacted, Place, compact_days
from admin_svc.site_lock import enter
from common.intervals import DAY, floor_day
from common.locks import compaction_lock
from common.sites import DELETING
from common.timestamps import EPOCH

DEFAULT_LIMIT = 10_000
MAX_LIMIT = 50_000
_MOST_DAYS = 100
"""A chunk takes deltas of so many days at most, each of one dimension, because it holds a lock for each."""

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

# The first hour of each dimension and day among the first deltas at or after a place in the index of deltas.
_NEXT_DAYS = """
SELECT dimension, min(bucket_start) FROM (
    SELECT dimension, bucket_start FROM rollup_shards
    WHERE site_id = %(site_id)s AND delta_no > 0 AND (dimension, bucket_start) >= (%(dimension)s, %(start)s)
    ORDER BY dimension, bucket_start LIMIT %(limit)s
) AS first
GROUP BY dimension, date_bin('1 day', bucket_start, timestamptz 'epoch')
"""

# Tries to lock some days, each of one dimension. Returns whether each is locked, in the given order.
_LOCK = """
SELECT array_agg(pg_try_advisory_xact_lock(site_id, number) ORDER BY at)
FROM unnest(%(site_ids)s::int[], %(numbers)s::int[]) WITH ORDINALITY AS w (site_id, number, at)
"""

# Deltas are read in the order of their index. On a table without statistics (just loaded) Postgres expects that a site
# has few. It would then read and sort all of them for each chunk.
_READ_IN_ORDER = "SELECT set_config('enable_sort', 'off', true)"

_FIRST: Place = (-1, EPOCH)
_NOTHING = Chunk(Compacted(), has_more=False)

Connection = psycopg.Connection[Any]


def sites_with_deltas(connection: Connection, _now: datetime) -> list[int]:
    """The numbers of the sites that have deltas."""
    return [row[0] for row in connection.execute(_SITES_WITH_DELTAS)]


def compact(
    connection: Connection, site_id: int, _now: datetime, limit: int, position: Position = ()
) -> Chunk[Compacted]:
    """Compacts up to `limit` deltas of the first days, each of one dimension, that no other worker holds, from
    `position` on.

    Deltas that are appended after the first chunk are left to later runs, so that a run ends while aggregation goes on.
    A chunk of 0 deltas means that none is left from there on, that other workers hold all of them, or that the site
    cannot be entered. Raises the errors of DatabaseFault, and then nothing was done.
    """
    newest, dimension, start = position or (_newest_delta(connection), *_FIRST)
    with connection.transaction():
        if not enter(connection, site_id):
            return _NOTHING
        connection.execute(_READ_IN_ORDER)
        while found := _next_days(connection, site_id, (dimension, start), limit):
            locked = _lock(connection, site_id, found)
            done = compact_days(connection, site_id, locked, limit) if locked else Compacted()
            if done.deltas:
                # From the first day on: deltas may have been appended to any of them meanwhile.
                left = _next_delta(connection, site_id, locked[0], newest)
                return Chunk(done, left is not None, () if left is None else (newest, *left))
            # Other workers hold these days or have just compacted them, so the search goes on after them.
            dimension, start = found[-1][0], floor_day(found[-1][1]) + DAY
    return _NOTHING


def _newest_delta(connection: Connection) -> int:
    """The last delta number given out. No delta has a higher one, unless numbers have begun again after 2^31 chunks."""
    row = connection.execute("SELECT last_value FROM delta_numbers").fetchone()
    assert row is not None
    return int(row[0])


def _next_delta(connection: Connection, site_id: int, place: Place, newest: int) -> Place | None:
    """The place of the first delta at or after `place` with a number up to `newest`; None = there is none."""
    dimension, start = place
    parameters = {"site_id": site_id, "dimension": dimension, "start": start, "newest": newest}
    row = connection.execute(_NEXT_DELTA, parameters).fetchone()
    return None if row is None else (row[0], row[1])


def _next_days(connection: Connection, site_id: int, place: Place, limit: int) -> list[Place]:
    """The first place of each dimension and day that the first `limit` deltas at or after `place` are of, in order."""
    dimension, start = place
    parameters = {"site_id": site_id, "dimension": dimension, "start": start, "limit": limit}
    return sorted(connection.execute(_NEXT_DAYS, parameters).fetchall())[:_MOST_DAYS]


def _lock(connection: Connection, site_id: int, places: Sequence[Place]) -> list[Place]:
    """Locks the days of the places until the transaction ends. Returns the places of those that no other holds."""
    locks = [compaction_lock(site_id, dimension, (hour - EPOCH).days) for dimension, hour in places]
    site_ids, numbers = map(list, zip(*locks, strict=True))
    row = connection.execute(_LOCK, {"site_ids": site_ids, "numbers": numbers}).fetchone()
    assert row is not None
    return [place for place, locked in zip(places, row[0], strict=True) if locked]
