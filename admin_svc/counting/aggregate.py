"""Aggregation: a chunk of pending events is added to visitors, sessions and rollup deltas in one transaction."""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import psycopg

from admin_svc.chunk import Chunk
from admin_svc.counting import queue
from admin_svc.counting.chunk_changes import add_new_visitors, chunk_changes, store
from admin_svc.counting.event_faults import caused_by_events
from admin_svc.counting.failed_batches import take_apart
from admin_svc.counting.queue import PendingBatch
from admin_svc.counting.reads import read_one
from admin_svc.counting.small_sites import MOST_SITES as MOST_SITES
from admin_svc.counting.small_sites import aggregate_small_sites, small_sites
from admin_svc.counting.visitor_numbers import VisitorNumbers
from admin_svc.site_lock import enter

_log = logging.getLogger(__name__)

# The more events a chunk has, the more of them share a visitor, a session or a delta. This many take a second or two.
DEFAULT_LIMIT = 50_000
MAX_LIMIT = 50_000

_TRIES = 3
# How long a site whose own chunk has failed is kept out of chunks of small sites. There it would fail again, and with
# it the others.
_KEPT_OUT = timedelta(minutes=1)

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
        self._kept_out: dict[int, datetime] = {}

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

    def small_sites(self, connection: Connection, site_ids: Sequence[int], now: datetime) -> dict[int, list[int]]:
        """Those of the sites that `aggregate_together` may be given, in the given order, with their partitions that
        have events due."""
        self._kept_out = {site_id: until for site_id, until in self._kept_out.items() if until > now}
        return small_sites(connection, [site_id for site_id in site_ids if site_id not in self._kept_out], now)

    def aggregate_together(
        self, connection: Connection, sites: Mapping[int, list[int]], now: datetime
    ) -> dict[int, Chunk[Aggregated]]:
        """Aggregates the due events of at most 100 small sites, given with their partitions, in one transaction.

        Returns the chunks of the sites it has aggregated. The others are to be aggregated on their own: those that
        another worker holds, and all if one failed. Raises the errors of a connection that is lost.
        """
        assert len(sites) <= MOST_SITES
        try:
            done = aggregate_small_sites(connection, self._numbers, sites, now)
        except Exception as error:
            if connection.closed:
                raise
            _log.warning("a chunk of %d small sites failed, each is aggregated on its own: %s", len(sites), error)
            return {}
        return {site_id: Chunk(Aggregated(aggregated=events), has_more=False) for site_id, events in done.items()}

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
            self._kept_out[site_id] = now + _KEPT_OUT
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
    for attempt in range(1, _TRIES + 1):
        changes = read_one(connection, numbers, site_id, chunk_changes(site_id, claimed))
        try:
            with connection.transaction():  # a savepoint
                add_new_visitors(connection, {site_id: changes})
            break
        except psycopg.errors.UniqueViolation:
            if attempt == _TRIES:
                raise
            # A worker of another partition has added one of them. What it has stored of them is read again.
    store(connection, {site_id: changes})
    return changes.taken
