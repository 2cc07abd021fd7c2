"""The queue of aggregation: the partitions of a site that have work, and the batches that a chunk claims."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import psycopg

from common.db import LOCK_TIMEOUT_MS
from common.locks import partition_lock
from common.rebuild_phase import rollups_incomplete
from common.sites import DELETING

MAX_CLAIMED_BATCHES = 1_000
"""How many batches a chunk claims at most, however few events they hold: each is locked, and is in three statements."""

CLAIMABLE = f"""
NOT EXISTS (SELECT FROM rebuilds r WHERE r.site_id = %(site_id)s AND {rollups_incomplete("r")})
AND (p.replay OR NOT EXISTS (SELECT FROM pending_batches q WHERE q.site_id = %(site_id)s AND q.replay))
"""
"""SQL: whether a rebuild allows the pending batch p of the site %(site_id)s to be claimed. None is claimed while a
rebuild queues or clears. Afterwards its replays are claimed before any other batch (see maintenance/rebuild.py)."""

# The sites that have a batch due.
_SITES_WITH_WORK = f"""
SELECT s.site_id FROM sites s
WHERE s.status <> {DELETING}
  AND EXISTS (SELECT FROM pending_batches p WHERE p.site_id = s.site_id AND p.not_before <= %(now)s)
ORDER BY s.site_id
"""

# The partitions of a site that have a batch due, in the order in which their oldest batches were received.
_PARTITIONS_WITH_WORK = f"""
SELECT partition FROM pending_batches p WHERE site_id = %(site_id)s AND not_before <= %(now)s AND {CLAIMABLE}
GROUP BY partition ORDER BY min(received_at)
"""

# The oldest due batches of a partition. Those that a deletion or an erasure has locked are passed over.
_CLAIM = f"""
SELECT batch_id, first_ord, last_ord, attempts, last_error IS NOT NULL, replay
FROM pending_batches p
WHERE site_id = %(site_id)s AND partition = %(partition)s AND not_before <= %(now)s AND {CLAIMABLE}
ORDER BY received_at, batch_id, first_ord LIMIT %(rows)s
FOR UPDATE SKIP LOCKED
"""

# Removes batches from the queue.
_REMOVE = """
DELETE FROM pending_batches p USING unnest(%(batch_ids)s::bigint[], %(firsts)s::int[]) AS done (batch_id, first_ord)
WHERE p.site_id = %(site_id)s AND p.partition = %(partition)s AND p.batch_id = done.batch_id
  AND p.first_ord = done.first_ord
"""

# How many events of a site are pending, and how many of those are due.
_BACKLOG = f"""
SELECT coalesce(sum(last_ord - first_ord + 1), 0)::bigint,
       coalesce(sum(last_ord - first_ord + 1) FILTER (WHERE not_before <= %(now)s AND {CLAIMABLE}), 0)::bigint
FROM pending_batches p WHERE site_id = %(site_id)s
"""

Connection = psycopg.Connection[Any]


class PendingBatch(NamedTuple):
    """The pending events first_ord … last_ord of one batch."""

    batch_id: int
    first_ord: int
    last_ord: int
    attempts: int
    suspect: bool
    """Whether a chunk that held it has failed."""
    replay: bool
    """Whether a rebuild has queued it."""

    @property
    def events(self) -> int:
        """How many events it holds."""
        return self.last_ord - self.first_ord + 1


def sites_with_work(connection: Connection, now: datetime) -> list[int]:
    """The numbers of the sites that have a batch due."""
    return [row[0] for row in connection.execute(_SITES_WITH_WORK, {"now": now})]


def partitions_with_work(connection: Connection, site_id: int, now: datetime) -> list[int]:
    """The partitions of the site that have a batch due, in the order in which their oldest batches were received."""
    return [row[0] for row in connection.execute(_PARTITIONS_WITH_WORK, {"site_id": site_id, "now": now})]


def backlog(connection: Connection, site_id: int, now: datetime) -> tuple[int, int]:
    """How many events of the site are pending, and how many of those are due and may be claimed."""
    row = connection.execute(_BACKLOG, {"site_id": site_id, "now": now}).fetchone()
    assert row is not None
    return row[0], row[1]


def lock_partition(connection: Connection, site_id: int, partition: int, *, wait_ms: int) -> bool:
    """Takes the partition's lock until the transaction ends. Waits at most `wait_ms`. False = another holds it."""
    lock = partition_lock(site_id, partition)
    if not wait_ms:
        row = connection.execute("SELECT pg_try_advisory_xact_lock(%s, %s)", lock).fetchone()
        assert row is not None
        return bool(row[0])
    connection.execute("SELECT set_config('lock_timeout', %s, true)", (f"{wait_ms}ms",))
    try:
        with connection.transaction():  # a savepoint, so that a timeout does not end the chunk's transaction
            connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", lock)
    except psycopg.errors.LockNotAvailable:
        return False
    connection.execute("SELECT set_config('lock_timeout', %s, true)", (f"{LOCK_TIMEOUT_MS}ms",))
    return True


def claim(connection: Connection, site_id: int, partition: int, now: datetime, limit: int) -> list[PendingBatch]:
    """Claims whole due batches of the partition, oldest first, until they hold `limit` events.

    If any is due, at least one is claimed; at most 1,000 are. A suspect is claimed alone.
    """
    rows = min(limit, MAX_CLAIMED_BATCHES)
    parameters = {"site_id": site_id, "partition": partition, "now": now, "rows": rows}
    due = [PendingBatch._make(row) for row in connection.execute(_CLAIM, parameters)]
    if due and due[0].suspect:
        return due[:1]
    claimed: list[PendingBatch] = []
    events = 0
    for batch in due:
        if batch.suspect or events >= limit:
            break
        claimed.append(batch)
        events += batch.events
    return claimed


def remove(connection: Connection, site_id: int, partition: int, batches: Sequence[PendingBatch]) -> None:
    """Removes the batches from the queue."""
    connection.execute(_REMOVE, named_batches(site_id, partition, batches))


def named_batches(site_id: int, partition: int, batches: Sequence[PendingBatch]) -> dict[str, object]:
    """The parameters with which a statement identifies several batches of one partition."""
    return {
        "site_id": site_id,
        "partition": partition,
        "batch_ids": [batch.batch_id for batch in batches],
        "firsts": [batch.first_ord for batch in batches],
    }
