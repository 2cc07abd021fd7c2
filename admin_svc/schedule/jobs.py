"""The jobs that the admin process does by itself: what each does, how often, and how much in one chunk."""

from collections.abc import Callable
from datetime import datetime
from operator import attrgetter
from typing import Any, NamedTuple

import psycopg

from admin_svc.chunk import Chunk
from admin_svc.counting import aggregate, compact, dead_letters, queue
from admin_svc.counting.aggregate import Aggregator
from admin_svc.maintenance import cleanup, prune
from admin_svc.schedule import runs
from common.locks import job_lock
from common.settings import Settings

Connection = psycopg.Connection[Any]
DoChunk = Callable[[Connection, int, datetime, int], Chunk[Any]]
"""One chunk for a site, at a time, of a limit of rows. Takes a connection in autocommit; raises SiteBusy and a
DatabaseFault."""


class Job(NamedTuple):
    """One job; its name is one of runs.JOBS."""

    name: str
    does: str
    """For people, after "the job"."""
    seconds: float
    """How long after the start of a run the next one is due; 0 = never."""
    sites: Callable[[Connection, datetime], list[int]]
    """The sites that have work for it."""
    chunk: DoChunk
    limit: int
    """Rows of one chunk."""
    rows: Callable[[Any], int] = sum
    """How many rows a chunk worked on, by what it has done."""
    lock: int = 0
    """Number of the lock that lets one process at a time do a chunk for a site; 0 = any number side by side."""

    def run_chunk(self, connection: Connection, site_id: int, now: datetime) -> Chunk[Any] | None:
        """One chunk for the site; None where another process does one. Raises as DoChunk."""
        if not self.lock:
            return self.chunk(connection, site_id, now, self.limit)
        with connection.transaction():
            lock = job_lock(site_id, self.lock)
            row = connection.execute("SELECT pg_try_advisory_xact_lock(%s, %s)", lock).fetchone()
            return self.chunk(connection, site_id, now, self.limit) if row and row[0] else None


def jobs(settings: Settings, aggregator: Aggregator) -> list[Job]:
    """All jobs, as the settings want them. A lock's number never changes, for two releases may run side by side."""
    aggregate_seconds = settings.aggregate_seconds if settings.aggregate else 0
    # fmt: off
    return [
        Job("aggregate", "aggregates pending events", aggregate_seconds,
            queue.sites_with_work, aggregator.aggregate, aggregate.DEFAULT_LIMIT),
        Job(runs.COMPACT, "compacts rollup deltas", settings.fold_seconds,
            compact.sites_with_deltas, compact.compact, compact.DEFAULT_LIMIT,
            rows=attrgetter("deltas"), lock=2),
        Job("retry", "gives old dead letters another three attempts", settings.retry_seconds,
            dead_letters.sites_to_retry, dead_letters.requeue_old, dead_letters.DEFAULT_LIMIT, lock=3),
        Job("cleanup", "deletes what has passed its retention", settings.cleanup_seconds,
            cleanup.sites_to_clean_up, cleanup.delete_expired, cleanup.DEFAULT_LIMIT, lock=4),
        Job("prune", "deletes expired dedupe keys", settings.prune_seconds,
            _all_sites_at_once, prune.prune, prune.DEFAULT_LIMIT, lock=5),
    ]
    # fmt: on


def _all_sites_at_once(_connection: Connection, _now: datetime) -> list[int]:
    return [runs.ALL_SITES]
