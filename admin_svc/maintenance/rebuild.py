"""Rebuilding a site: its derived rows are deleted and made again from its raw events, while it stays in use.

A rebuild works in chunks and can go on after a crash at any point. It has the phases of common/rebuild_phase.py:

1. Queueing. The aggregated events of every batch are put back into `pending_batches`, marked as replays. Pending events
   and dead letters stay as they are. Meanwhile nothing of the site is aggregated or compacted, so every event either
   was aggregated before (and is replayed) or is still pending. Batches are queued from the newest down, so that batches
   that come in meanwhile do not keep the phase from ending.
2. Clearing. Visitors, sessions and rollups are deleted. So is the record of incomplete hours, because the rollups are
   then made from the raw events that are left.
3. Replaying. Aggregation continues. It takes replays first, then what has arrived meanwhile.

If raw events have been cleaned up, derived rows are made again only from the horizon on: the first whole day that has
all of its raw events. Older ones stay. A session that began before the horizon and reaches beyond it stays too. Its
events after the horizon are aggregated again, but are not added to a session a second time (see counting/replay.py).
"""

from datetime import datetime
from typing import Any, NamedTuple

import psycopg

from admin_svc.chunk import Chunk, Position
from admin_svc.counting.aggregate import Aggregator
from admin_svc.site_lock import hold
from common.aggregated import is_aggregated
from common.dimensions import BY_NUMBER, OVERVIEW
from common.intervals import RollupInterval
from common.rebuild_phase import RebuildPhase

DEFAULT_LIMIT = 5_000
MAX_LIMIT = 50_000
_MAX_BATCHES = 1_000
_ABOVE_ALL = 2**63 - 1

# The site's last rebuild.
_READ = "SELECT number, phase, horizon, next_batch FROM rebuilds WHERE site_id = %(site_id)s"

# Begins a rebuild. The horizon is the first whole day that has all of its raw events.
_BEGIN = f"""
INSERT INTO rebuilds (site_id, number, phase, horizon, next_batch, started_at)
SELECT site_id, nextval('rebuild_numbers'), {RebuildPhase.QUEUEING},
       date_bin('1 day', raw_from + interval '1 day' - interval '1 microsecond', 'epoch'), {_ABOVE_ALL}, %(now)s
FROM sites WHERE site_id = %(site_id)s
ON CONFLICT (site_id) DO UPDATE
SET number = excluded.number, phase = excluded.phase, horizon = excluded.horizon, next_batch = excluded.next_batch,
    started_at = excluded.started_at
RETURNING number, phase, horizon, next_batch
"""

# Moves a rebuild to a phase and a next batch.
_ADVANCE = "UPDATE rebuilds SET phase = %(phase)s, next_batch = %(next_batch)s WHERE site_id = %(site_id)s"

# The next batches, from the newest down, and the last position in each; one index probe per batch.
_BATCHES = """
WITH RECURSIVE batch AS (
    (SELECT batch_id, ord FROM events WHERE site_id = %(site_id)s AND batch_id < %(next_batch)s
     ORDER BY batch_id DESC, ord DESC LIMIT 1)
    UNION ALL
    SELECT next.batch_id, next.ord
    FROM batch b CROSS JOIN LATERAL (
        SELECT e.batch_id, e.ord FROM events e WHERE e.site_id = %(site_id)s AND e.batch_id < b.batch_id
        ORDER BY e.batch_id DESC, e.ord DESC LIMIT 1
    ) AS next
)
SELECT batch_id, ord FROM batch LIMIT %(rows)s
"""

# Queues the aggregated events of the batches from the horizon on. Every run of positions without a gap is a row of its
# own. The partition is by batch, not by visitor: it only spreads the work, because workers lock visitors' rows.
_QUEUE = f"""
INSERT INTO pending_batches (site_id, partition, batch_id, first_ord, last_ord, received_at, not_before, replay)
SELECT s.site_id, p.batch_id %% s.rollup_shard_count, p.batch_id, p.first_ord, p.last_ord, p.received_at,
       p.received_at, true
FROM sites s
CROSS JOIN (
    SELECT batch_id, min(ord) AS first_ord, max(ord) AS last_ord, min(received_at) AS received_at
    FROM (
        SELECT e.batch_id, e.ord, e.received_at, e.ord - row_number() OVER (PARTITION BY batch_id ORDER BY ord) AS run
        FROM events e
        WHERE e.site_id = %(site_id)s AND e.batch_id = ANY(%(batch_ids)s) AND e.occurred_at >= %(horizon)s
          AND {is_aggregated("e")}
    ) AS aggregated
    GROUP BY batch_id, run
) AS p
WHERE s.site_id = %(site_id)s
RETURNING last_ord - first_ord + 1
"""

# Each deletes the first derived rows of one kind, in the order of the index that it uses.
_CLEAR_DELTAS = """
DELETE FROM rollup_shards WHERE site_id = %(site_id)s AND ctid = ANY(ARRAY(
    SELECT ctid FROM rollup_shards
    WHERE site_id = %(site_id)s AND dimension = %(dimension)s AND bucket_start >= %(horizon)s AND delta_no > 0
    ORDER BY bucket_start LIMIT %(rows)s
))
"""
_CLEAR_ROLLUPS = """
DELETE FROM rollup_shards WHERE site_id = %(site_id)s AND ctid = ANY(ARRAY(
    SELECT ctid FROM rollup_shards
    WHERE site_id = %(site_id)s AND interval = %(interval)s AND dimension = %(dimension)s
      AND bucket_start >= %(horizon)s AND delta_no = 0
    ORDER BY bucket_start LIMIT %(rows)s
))
"""
_CLEAR_SESSIONS = """
DELETE FROM sessions WHERE site_id = %(site_id)s AND ctid = ANY(ARRAY(
    SELECT ctid FROM sessions WHERE site_id = %(site_id)s AND started_at >= %(horizon)s
    ORDER BY started_at LIMIT %(rows)s
))
"""
_CLEAR_VISITORS = """
DELETE FROM visitors WHERE site_id = %(site_id)s AND ctid = ANY(ARRAY(
    SELECT ctid FROM visitors WHERE site_id = %(site_id)s AND first_seen_at >= %(horizon)s
    ORDER BY first_seen_at LIMIT %(rows)s
))
"""

# Deletes the record of incomplete hours: rollups made from the raw events that are left match them again.
_CLEAR_ERASED = """
DELETE FROM erased_hours WHERE site_id = %(site_id)s AND ctid = ANY(ARRAY(
    SELECT ctid FROM erased_hours WHERE site_id = %(site_id)s AND hour >= %(horizon)s ORDER BY hour LIMIT %(rows)s
))
"""

# How many replays are left.
_LEFT = """
SELECT coalesce(sum(last_ord - first_ord + 1), 0)::bigint FROM pending_batches WHERE site_id = %(site_id)s AND replay
"""

Connection = psycopg.Connection[Any]


class Rebuilt(NamedTuple):
    """Numbers of rows, by what was done with them."""

    queued: int = 0
    """Events queued to be aggregated again."""
    cleared: int = 0
    """Derived rows deleted."""
    aggregated: int = 0
    """Events aggregated again."""
    failed: int = 0
    """Events that became dead letters."""


class _Rebuild(NamedTuple):
    number: int
    phase: int
    horizon: datetime | None
    next_batch: int


def rebuild(
    connection: Connection, aggregator: Aggregator, site_id: int, now: datetime, limit: int, position: Position = ()
) -> Chunk[Rebuilt]:
    """Does one chunk of the rebuild whose number is the position. () = of the one under way, or the first of a new one.

    `connection` is in autocommit. Raises the errors of DatabaseFault, and then nothing was done.
    """
    number = position[0] if position else None
    with connection.transaction():
        hold(connection, site_id)
        found = _read(connection, site_id)
        if number is not None and (found is None or found.number != number or found.phase == RebuildPhase.DONE):
            # The rebuild has ended. Another one may be under way, but the position is not of that one.
            return Chunk(Rebuilt(), has_more=False)
        if found is None or found.phase == RebuildPhase.DONE:
            found = _begin(connection, site_id, now)
        if found.phase == RebuildPhase.QUEUEING:
            return _queue(connection, site_id, found, limit)
        if found.phase == RebuildPhase.CLEARING:
            return _clear(connection, site_id, found, limit)
    chunk = aggregator.aggregate(connection, site_id, now, limit)
    with connection.transaction():
        hold(connection, site_id)
        left = replays_left(connection, site_id)
        # Another caller may have ended this rebuild meanwhile and begun the next one, which must not be ended here.
        if not left and _read(connection, site_id) == found:
            _advance(connection, site_id, RebuildPhase.DONE, found.next_batch)
    return _chunk(found, left > 0, aggregated=chunk.done.aggregated, failed=chunk.done.failed)


def replays_left(connection: Connection, site_id: int) -> int:
    """How many events of the site are still to be aggregated again."""
    row = connection.execute(_LEFT, {"site_id": site_id}).fetchone()
    assert row is not None
    return int(row[0])


def _chunk(found: _Rebuild, has_more: bool = True, **done: int) -> Chunk[Rebuilt]:
    return Chunk(Rebuilt(**done), has_more, (found.number,) if has_more else ())


def _queue(connection: Connection, site_id: int, found: _Rebuild, limit: int) -> Chunk[Rebuilt]:
    """Queues the aggregated events of whole batches, at least one, until they hold `limit` events."""
    parameters = {"site_id": site_id, "next_batch": found.next_batch, "rows": min(limit, _MAX_BATCHES)}
    batch_ids: list[int] = []
    events = 0
    for batch_id, last_ord in connection.execute(_BATCHES, parameters):
        if events >= limit:
            break
        batch_ids.append(batch_id)
        events += last_ord + 1
    if not batch_ids:
        _advance(connection, site_id, RebuildPhase.CLEARING, found.next_batch)
        return _chunk(found)
    queued = connection.execute(_QUEUE, {**_where(site_id, found), "batch_ids": batch_ids}).fetchall()
    _advance(connection, site_id, RebuildPhase.QUEUEING, batch_ids[-1])
    return _chunk(found, queued=sum(row[0] for row in queued))


def _clear(connection: Connection, site_id: int, found: _Rebuild, limit: int) -> Chunk[Rebuilt]:
    """Deletes up to `limit` derived rows, under one limit for all kinds."""
    where = _where(site_id, found)
    dimensions = (OVERVIEW.number, *BY_NUMBER)
    statements = [(_CLEAR_DELTAS, {**where, "dimension": dimension}) for dimension in dimensions]
    statements += [
        (_CLEAR_ROLLUPS, {**where, "interval": int(interval), "dimension": dimension})
        for interval in RollupInterval
        for dimension in dimensions
    ]
    cleared = 0
    others = [(statement, where) for statement in (_CLEAR_SESSIONS, _CLEAR_VISITORS, _CLEAR_ERASED)]
    for statement, parameters in (*statements, *others):
        cleared += connection.execute(statement, {**parameters, "rows": limit - cleared}).rowcount
        if cleared == limit:
            break
    else:
        _advance(connection, site_id, RebuildPhase.REPLAYING, found.next_batch)
    return _chunk(found, cleared=cleared)


def _where(site_id: int, found: _Rebuild) -> dict[str, Any]:
    return {"site_id": site_id, "horizon": found.horizon or "-infinity"}


def _read(connection: Connection, site_id: int) -> _Rebuild | None:
    row = connection.execute(_READ, {"site_id": site_id}).fetchone()
    return None if row is None else _Rebuild(*row)


def _begin(connection: Connection, site_id: int, now: datetime) -> _Rebuild:
    row = connection.execute(_BEGIN, {"site_id": site_id, "now": now}).fetchone()
    assert row is not None
    return _Rebuild(*row)


def _advance(connection: Connection, site_id: int, phase: RebuildPhase, next_batch: int) -> None:
    connection.execute(_ADVANCE, {"site_id": site_id, "phase": int(phase), "next_batch": next_batch})
