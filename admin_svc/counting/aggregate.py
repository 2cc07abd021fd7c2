"""Aggregation: a chunk of pending events is added to visitors, sessions and rollup deltas in one transaction."""

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import psycopg

from admin_svc.chunk import Chunk
from admin_svc.counting import queue, replay
from admin_svc.counting.event_faults import caused_by_events
from admin_svc.counting.event_reader import read_events
from admin_svc.counting.failed_batches import take_apart
from admin_svc.counting.queue import PendingBatch
from admin_svc.counting.rollup_deltas import Deltas, append_deltas
from admin_svc.counting.session_changes import session_changes
from admin_svc.counting.session_store import replace_sessions
from admin_svc.counting.visitor_numbers import VisitorNumbers
from admin_svc.counting.visitors import seen_in, upsert_visitors
from admin_svc.site_lock import enter

_log = logging.getLogger(__name__)

# The more events a chunk has, the more of them share a visitor, a session or a delta. This many take a second or two.
DEFAULT_LIMIT = 50_000
MAX_LIMIT = 50_000

# The longest gap inside a session of the site.
_SESSION_TIMEOUT = "SELECT session_timeout_us FROM sites WHERE site_id = %(site_id)s"

Connection = psycopg.Connection[Any]


class Aggregated(NamedTuple):
    """Numbers of events, by what was done with them."""

    aggregated: int = 0
    failed: int = 0
    """Events that became dead letters."""


_NOTHING = Chunk(Aggregated(), has_more=False)


class Aggregator:
    """Aggregates chunks. Any number may run at once, in one process or several.

    One at a time works on a partition of a site. Two that have a visitor in common wait for the lock of its row.
    """

    def __init__(self, numbers: VisitorNumbers) -> None:
        self._numbers = numbers

    def aggregate(
        self, connection: Connection, site_id: int, now: datetime, limit: int, *, wait_ms: int = 0
    ) -> Chunk[Aggregated]:
        """Aggregates up to `limit` events of the partition that has waited longest and that no other worker holds.

        If all are held, it waits up to `wait_ms` for the one that has waited longest. `has_more` is False only if there
        was no partition to work on. Raises the errors of DatabaseFault and any error that no event can cause. Then
        nothing was done.
        """
        partitions = queue.partitions_with_work(connection, site_id, now)
        for partition in partitions:
            chunk = self._aggregate_partition(connection, site_id, partition, now, limit, 0)
            if chunk.has_more:
                return chunk
        if partitions and wait_ms:
            return self._aggregate_partition(connection, site_id, partitions[0], now, limit, wait_ms)
        return _NOTHING

    def _aggregate_partition(
        self, connection: Connection, site_id: int, partition: int, now: datetime, limit: int, wait_ms: int
    ) -> Chunk[Aggregated]:
        claimed: list[PendingBatch] = []
        try:
            with connection.transaction():
                if not queue.lock_partition(connection, site_id, partition, wait_ms=wait_ms):
                    return _NOTHING
                if not enter(connection, site_id):
                    return _NOTHING
                claimed = queue.claim(connection, site_id, partition, now, limit)
                if not claimed:
                    return _NOTHING
                taken = claimed[: aggregate_batches(connection, self._numbers, site_id, claimed)]
                queue.remove(connection, site_id, partition, taken)
            return Chunk(Aggregated(aggregated=sum(batch.events for batch in taken)), has_more=True)
        except Exception as error:
            if not claimed or not caused_by_events(error):
                raise
            _log.exception("a chunk of %d batches of site %d, partition %d failed", len(claimed), site_id, partition)
            return _fail(connection, site_id, partition, claimed, now, error)


def _fail(
    connection: Connection,
    site_id: int,
    partition: int,
    claimed: Sequence[PendingBatch],
    now: datetime,
    error: Exception,
) -> Chunk[Aggregated]:
    """Isolates the event that made the chunk fail, so that the others are aggregated."""
    with connection.transaction():
        if not queue.lock_partition(connection, site_id, partition, wait_ms=0) or not enter(connection, site_id):
            # Another transaction holds the partition or the site and works on the same batches. The failure will recur.
            return _NOTHING
        return Chunk(Aggregated(failed=take_apart(connection, site_id, partition, claimed, now, error)), has_more=True)


def aggregate_batches(
    connection: Connection, numbers: VisitorNumbers, site_id: int, claimed: Sequence[PendingBatch]
) -> int:
    """Aggregates the events of the first claimed batches in the caller's transaction. Returns how many batches these
    are."""
    timeout_row = connection.execute(_SESSION_TIMEOUT, {"site_id": site_id}).fetchone()
    assert timeout_row is not None
    timeout = timedelta(microseconds=timeout_row[0])
    events, taken = read_events(connection, site_id, claimed)
    # A chunk holds either replays or other batches, never both.
    horizon = replay.horizon(connection, site_id) if claimed[0].replay else None
    visitors = upsert_visitors(connection, numbers, site_id, seen_in(events))
    deltas = Deltas()
    deltas.add_events(events, [visitors[event.visitor_id].number for event in events])
    before, after = session_changes(connection, site_id, events, visitors, timeout, horizon)
    deltas.add_sessions(before.values(), -1)
    deltas.add_sessions(after.values())
    replace_sessions(connection, site_id, before, after)
    append_deltas(connection, site_id, deltas)
    return taken
