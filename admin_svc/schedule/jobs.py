"""The jobs of the schedule: what each does, how often, and how much in one chunk."""

from collections.abc import Callable, Mapping, Sequence
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
"""Does one chunk: of a site, at a time, with a limit of rows. Takes a connection in autocommit. Raises SiteBusy and
the errors of DatabaseFault."""


class Together(NamedTuple):
    """How a job does a chunk of several small sites in one transaction."""

    small: Callable[[Connection, Sequence[int], datetime], dict[int, list[int]]]
    """Finds the small ones among some sites, in the given order; what belongs to each is for `chunk`."""
    chunk: Callable[[Connection, Mapping[int, list[int]], datetime], Mapping[int, Chunk[Any]]]
    """Does the work of some small sites. Returns the chunks of those for which it was done."""
    most: int
    """How many sites a chunk holds at most."""


class Job(NamedTuple):
    """A job. Its name is one of runs.JOBS."""

    name: str
    does: str
    """What the job does, for the log; it continues "the job <name> "."""
    seconds: float
    """The seconds from the start of one run to that of the next; 0 = the job never runs by itself."""
    sites: Callable[[Connection, datetime], list[int]]
    """Finds the sites that have work for the job."""
    chunk: DoChunk
    limit: int
    """How many rows a chunk works on at most."""
    rows: Callable[[Any], int] = sum
    """The number of rows that a chunk worked on, from its `done`."""
    lock: int = 0
    """The number of the lock with which one process at a time does a chunk for a site; 0 = any number at once."""
    together: Together | None = None
    """None = every chunk is of one site. Otherwise a run also looks for sites that get work while it is under way."""

    def run_chunk(self, connection: Connection, site_id: int, now: datetime) -> Chunk[Any] | None:
        """Does a chunk for the site. None = another process is doing one. Raises as DoChunk does."""
        if not self.lock:
            return self.chunk(connection, site_id, now, self.limit)
        with connection.transaction():
            lock = job_lock(site_id, self.lock)
            row = connection.execute("SELECT pg_try_advisory_xact_lock(%s, %s)", lock).fetchone()
            return self.chunk(connection, site_id, now, self.limit) if row and row[0] else None


def jobs(settings: Settings, aggregator: Aggregator) -> list[Job]:
    """All jobs, with the intervals of the settings. The number of a lock never changes, because processes of two
    releases may run at once."""
    aggregate_seconds = settings.aggregate_seconds if settings.aggregate else 0
    # fmt: off
    return [
        Job("aggregate", "aggregates pending events", aggregate_seconds,
            queue.sites_with_work, aggregator.aggregate, aggregate.DEFAULT_LIMIT,
            together=Together(aggregator.small_sites, aggregator.aggregate_together, aggregate.MOST_SITES)),
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
