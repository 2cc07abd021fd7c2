"""Rebuilding a site: its derived rows are thrown away and made again from its raw events, while it goes on.

In pages, each resumable after any crash:

1. Queueing. What was counted of every batch goes back to `pending_batches`, marked as a replay. What is pending or
   failed already stays as it is. Nothing of the site is counted or folded meanwhile, so an event is either counted
   before (and replayed) or still pending: never both, never neither. From the newest batch down, so that batches
   which come in meanwhile do not keep it from ending.
2. Clearing. Visitors, sessions and rollups are deleted, and what is remembered of erased hours: a rebuild counts
   what raw events are left.
3. Counting. Aggregation goes on; it takes replays first. What arrived meanwhile follows.

Where raw events have been cleaned up, only what began on or after the first whole day that has all of them (the
horizon) is made again, for nothing could bring back the rest. A session that began before the horizon and reaches
over it stays; its events are counted again, but not a second time in a session (see replay.py).
"""

from datetime import datetime
from typing import Any, NamedTuple

import psycopg

from admin_svc.aggregate import Aggregator
from admin_svc.site_gate import CLEARING, COUNTING, DONE, QUEUEING, hold
from common.db import DAY, HOUR
from common.dimensions import BY_NUMBER, OVERVIEW

DEFAULT_LIMIT = 5_000
MAX_LIMIT = 50_000
_MAX_BATCHES = 1_000
_ABOVE_ALL = 2**63 - 1

_READ = "SELECT number, phase, horizon, next_batch FROM rebuilds WHERE site_id = %(site_id)s"

# Begins a rebuild. The horizon is the first whole day all of whose raw events are there.
_BEGIN = f"""
INSERT INTO rebuilds (site_id, number, phase, horizon, next_batch, started_at)
SELECT site_id, nextval('rebuild_numbers'), {QUEUEING},
       date_bin('1 day', raw_from + interval '1 day' - interval '1 microsecond', 'epoch'), {_ABOVE_ALL}, %(now)s
FROM sites WHERE site_id = %(site_id)s
ON CONFLICT (site_id) DO UPDATE
SET number = excluded.number, phase = excluded.phase, horizon = excluded.horizon, next_batch = excluded.next_batch,
    started_at = excluded.started_at
RETURNING number, phase, horizon, next_batch
"""

_ADVANCE = "UPDATE rebuilds SET phase = %(phase)s, next_batch = %(next_batch)s WHERE site_id = %(site_id)s"

# The next batches, from the newest down, and the last position of each; one index probe per batch.
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

# Queues what is counted of the batches and began on or after the horizon, every run of positions as a part of its own.
# The lane only spreads them: a worker locks its visitors' rows.
_QUEUE = """
INSERT INTO pending_batches (site_id, lane, batch_id, first_ord, last_ord, received_at, not_before, replay)
SELECT s.site_id, p.batch_id %% s.rollup_shard_count, p.batch_id, p.first_ord, p.last_ord, p.received_at,
       p.received_at, true
FROM sites s
CROSS JOIN (
    SELECT batch_id, min(ord) AS first_ord, max(ord) AS last_ord, min(received_at) AS received_at
    FROM (
        SELECT e.batch_id, e.ord, e.received_at, e.ord - row_number() OVER (PARTITION BY batch_id ORDER BY ord) AS run
        FROM events e
        WHERE e.site_id = %(site_id)s AND e.batch_id = ANY(%(batch_ids)s) AND e.occurred_at >= %(horizon)s
          AND NOT EXISTS (SELECT FROM pending_batches q WHERE q.site_id = %(site_id)s AND q.batch_id = e.batch_id
                            AND e.ord BETWEEN q.first_ord AND q.last_ord)
          AND NOT EXISTS (SELECT FROM failed_events f WHERE f.site_id = %(site_id)s AND f.batch_id = e.batch_id
                            AND f.ord = e.ord)
    ) AS counted
    GROUP BY batch_id, run
) AS p
WHERE s.site_id = %(site_id)s
RETURNING last_ord - first_ord + 1
"""

# Deletes up to a page of one kind of derived rows, by the index that serves their order.
_CLEAR_DELTAS = """
DELETE FROM rollup_shards WHERE site_id = %(site_id)s AND ctid = ANY(ARRAY(
    SELECT ctid FROM rollup_shards
    WHERE site_id = %(site_id)s AND dimension = %(dimension)s AND bucket_start >= %(horizon)s AND shard > 0
    ORDER BY bucket_start LIMIT %(rows)s
))
"""
_CLEAR_ROLLUPS = """
DELETE FROM rollup_shards WHERE site_id = %(site_id)s AND ctid = ANY(ARRAY(
    SELECT ctid FROM rollup_shards
    WHERE site_id = %(site_id)s AND interval = %(interval)s AND dimension = %(dimension)s
      AND bucket_start >= %(horizon)s AND shard = 0
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

# Hours whose counts are made from what raw events are left are whole again.
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


class Page(NamedTuple):
    """What one call did, and what is left."""

    number: int
    """Names the rebuild."""
    queued: int = 0
    """Events to be counted again."""
    cleared: int = 0
    """Derived rows deleted."""
    aggregated: int = 0
    failed: int = 0
    remaining: int = 0
    """Events still to be counted again."""
    has_more: bool = True


class _Rebuild(NamedTuple):
    number: int
    phase: int
    horizon: datetime | None
    next_batch: int


def run_once(
    connection: Connection, aggregator: Aggregator, site_id: int, now: datetime, limit: int, number: int | None
) -> Page:
    """One page of the rebuild `number`; None: of the one under way, or the first page of a new one.

    `connection` is in autocommit. Raises a DatabaseFault, and then nothing was done.
    """
    with connection.transaction():
        hold(connection, site_id)
        rebuild = _read(connection, site_id)
        if number is not None and (rebuild is None or rebuild.number != number or rebuild.phase == DONE):
            return Page(number, has_more=False)
        if rebuild is None or rebuild.phase == DONE:
            rebuild = _begin(connection, site_id, now)
        if rebuild.phase == QUEUEING:
            return _queue(connection, site_id, rebuild, limit)
        if rebuild.phase == CLEARING:
            return _clear(connection, site_id, rebuild, limit)
    page = aggregator.run_site_once(connection, site_id, now, limit)
    with connection.transaction():
        hold(connection, site_id)
        remaining = _left(connection, site_id)
        # Meanwhile another caller may have ended this rebuild and begun the next one, which is not ours to end.
        if not remaining and _read(connection, site_id) == rebuild:
            _advance(connection, site_id, DONE, rebuild.next_batch)
    return Page(rebuild.number, 0, 0, page.aggregated, page.failed, remaining, remaining > 0)


def _queue(connection: Connection, site_id: int, rebuild: _Rebuild, limit: int) -> Page:
    """Queues what is counted of whole batches, at least one, until `limit` events are reached."""
    parameters = {"site_id": site_id, "next_batch": rebuild.next_batch, "rows": min(limit, _MAX_BATCHES)}
    batch_ids: list[int] = []
    events = 0
    for batch_id, last_ord in connection.execute(_BATCHES, parameters):
        if events >= limit:
            break
        batch_ids.append(batch_id)
        events += last_ord + 1
    if not batch_ids:
        _advance(connection, site_id, CLEARING, rebuild.next_batch)
        return Page(rebuild.number, remaining=_left(connection, site_id))
    parts = connection.execute(_QUEUE, {**_where(site_id, rebuild), "batch_ids": batch_ids}).fetchall()
    _advance(connection, site_id, QUEUEING, batch_ids[-1])
    return Page(rebuild.number, queued=sum(part[0] for part in parts), remaining=_left(connection, site_id))


def _clear(connection: Connection, site_id: int, rebuild: _Rebuild, limit: int) -> Page:
    """Deletes up to `limit` derived rows, in one budget over all kinds."""
    where = _where(site_id, rebuild)
    dimensions = (OVERVIEW.number, *BY_NUMBER)
    statements = [(_CLEAR_DELTAS, {**where, "dimension": dimension}) for dimension in dimensions]
    statements += [
        (_CLEAR_ROLLUPS, {**where, "interval": interval, "dimension": dimension})
        for interval in (HOUR, DAY)
        for dimension in dimensions
    ]
    cleared = 0
    others = [(statement, where) for statement in (_CLEAR_SESSIONS, _CLEAR_VISITORS, _CLEAR_ERASED)]
    for statement, parameters in (*statements, *others):
        cleared += connection.execute(statement, {**parameters, "rows": limit - cleared}).rowcount
        if cleared == limit:
            break
    else:
        _advance(connection, site_id, COUNTING, rebuild.next_batch)
    return Page(rebuild.number, cleared=cleared, remaining=_left(connection, site_id))


def _where(site_id: int, rebuild: _Rebuild) -> dict[str, Any]:
    return {"site_id": site_id, "horizon": rebuild.horizon or "-infinity"}


def _read(connection: Connection, site_id: int) -> _Rebuild | None:
    row = connection.execute(_READ, {"site_id": site_id}).fetchone()
    return None if row is None else _Rebuild(*row)


def _begin(connection: Connection, site_id: int, now: datetime) -> _Rebuild:
    row = connection.execute(_BEGIN, {"site_id": site_id, "now": now}).fetchone()
    assert row is not None
    return _Rebuild(*row)


def _advance(connection: Connection, site_id: int, phase: int, next_batch: int) -> None:
    connection.execute(_ADVANCE, {"site_id": site_id, "phase": phase, "next_batch": next_batch})


def _left(connection: Connection, site_id: int) -> int:
    row = connection.execute(_LEFT, {"site_id": site_id}).fetchone()
    assert row is not None
    return int(row[0])
