"""Chunks of small sites: the few pending events of up to 100 sites are aggregated in one transaction.

A site costs a transaction a few dozen round trips and a COMMIT, however few events it has. Here the statements of all
sites go to the server in pipelines, each still of one site; new rows are copied together; and there is one COMMIT. Each
site's partitions and the site itself are locked as for a chunk of its own. No lock is waited for except those of rows,
which are taken in the order of the sites and ids and waited for a second at most.

If anything fails, nothing was done, and each of the sites is to be aggregated on its own (see aggregate.py). So the
events of one site never mark, delay or fail those of another.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import psycopg

from admin_svc.counting import queue
from admin_svc.counting.chunk_changes import add_new_visitors, chunk_changes, store
from admin_svc.counting.queue import PendingBatch
from admin_svc.counting.reads import Statement, read_several, rows_of
from admin_svc.counting.visitor_numbers import VisitorNumbers
from common.locks import partition_lock, site_lock
from common.sites import DELETING

MOST_SITES = 100
"""How many sites a chunk holds at most."""
MOST_BATCHES = 50
MOST_EVENTS = 500
"""A site with more due batches or events than this is not small."""
_ROW_WAIT_MS = 1_000

# Of some sites the partitions that have a batch due, if the site is small: of each at most one batch too many is read.
# A site is aggregated on its own while a rebuild has replays of it in the queue, or a chunk of it has failed.
_SMALL = f"""
SELECT s.site_id, due.partitions
FROM unnest(%(site_ids)s::int[]) AS s (site_id) CROSS JOIN LATERAL (
    SELECT array_agg(DISTINCT partition) AS partitions, count(*) AS batches, sum(events) AS events,
           bool_or(alone) AS alone
    FROM (
        SELECT partition, last_ord - first_ord + 1 AS events, replay OR last_error IS NOT NULL AS alone
        FROM pending_batches p WHERE p.site_id = s.site_id AND p.not_before <= %(now)s LIMIT {MOST_BATCHES + 1}
    ) AS first
) AS due
WHERE due.batches <= {MOST_BATCHES} AND due.events <= {MOST_EVENTS} AND NOT due.alone
"""

# Takes the locks of some sites: of partitions exclusively, of sites shared. Returns the sites of which it got all.
_LOCK = """
SELECT site_id FROM (
    SELECT site_id, CASE WHEN shared THEN pg_try_advisory_xact_lock_shared(site_id, number)
                         ELSE pg_try_advisory_xact_lock(site_id, number) END AS locked
    FROM unnest(%(site_ids)s::int[], %(numbers)s::int[], %(shared)s::bool[]) AS w (site_id, number, shared) OFFSET 0
) AS tried GROUP BY site_id HAVING bool_and(locked) ORDER BY site_id
"""

# The due batches of some partitions, and the events in them. It is a statement after the locks are held, because the
# one that took them may have seen an older state: none is claimed of a site that is rebuilt or deleted. Batches that a
# deletion or an erasure has locked are passed over.
_CLAIM = f"""
SELECT batch_id, first_ord, last_ord, attempts, false, replay, partition
FROM pending_batches p
WHERE site_id = %(site_id)s AND partition = ANY(%(partitions)s) AND not_before <= %(now)s AND {queue.CLAIMABLE}
  AND NOT replay AND last_error IS NULL
  AND EXISTS (SELECT FROM sites WHERE site_id = %(site_id)s AND status <> {DELETING})
ORDER BY partition, received_at, batch_id, first_ord LIMIT {MOST_BATCHES}
FOR UPDATE SKIP LOCKED
"""

Connection = psycopg.Connection[Any]


class _Claimed(NamedTuple):
    partitions: list[int]
    batches: list[PendingBatch]


def small_sites(connection: Connection, site_ids: Sequence[int], now: datetime) -> dict[int, list[int]]:
    """Those of the sites that have few events due and nothing that failed or is replayed, in the given order, with
    their partitions that have events due."""
    rows = connection.execute(_SMALL, {"site_ids": list(site_ids), "now": now})
    found: dict[int, list[int]] = dict(rows.fetchall())
    return {site_id: found[site_id] for site_id in site_ids if site_id in found}


def aggregate_small_sites(
    connection: Connection, numbers: VisitorNumbers, sites: Mapping[int, list[int]], now: datetime
) -> dict[int, int]:
    """Aggregates the due events of small sites, given with their partitions, in one transaction.

    `connection` is in autocommit. Returns how many events of each site were aggregated. A site that another worker
    holds is not among them. Raises any error of any of the sites; then nothing was done.
    """
    with connection.transaction():
        connection.execute("SELECT set_config('lock_timeout', %s, true)", (f"{_ROW_WAIT_MS}ms",))
        claims = {
            site_id: Statement(_CLAIM, {"site_id": site_id, "partitions": sites[site_id], "now": now})
            for site_id in _lock(connection, sites)
        }
        claimed: dict[int, _Claimed] = {}
        for site_id, rows in rows_of(connection, claims).items():
            if rows:
                claimed[site_id] = _Claimed([row[-1] for row in rows], [PendingBatch._make(row[:-1]) for row in rows])
        if not claimed:
            return {}
        changes = read_several(
            connection, numbers, {site_id: chunk_changes(site_id, claim.batches) for site_id, claim in claimed.items()}
        )
        changes = dict(sorted(changes.items()))
        add_new_visitors(connection, changes)
        store(connection, changes)
        done: dict[int, int] = {}
        with connection.pipeline():
            for site_id, claim in claimed.items():
                taken = claim.batches[: changes[site_id].taken]
                for partition in sorted(set(claim.partitions)):
                    of_partition = [
                        batch for batch, own in zip(taken, claim.partitions, strict=False) if own == partition
                    ]
                    queue.remove(connection, site_id, partition, of_partition)
                done[site_id] = sum(batch.events for batch in taken)
    return done


def _lock(connection: Connection, sites: Mapping[int, list[int]]) -> list[int]:
    """Locks the partitions and, shared, the sites until the transaction ends. Returns the sites of which no lock was
    held by another transaction, in order."""
    locks = [
        *((*partition_lock(site_id, partition), False) for site_id in sites for partition in sites[site_id]),
        *((*site_lock(site_id), True) for site_id in sites),
    ]
    site_ids, numbers, shared = map(list, zip(*locks, strict=True))
    rows = connection.execute(_LOCK, {"site_ids": site_ids, "numbers": numbers, "shared": shared})
    return [row[0] for row in rows]
