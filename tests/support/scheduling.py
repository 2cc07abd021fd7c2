"""Schedules that a test runs by its own clock, on a database of three sites."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import psycopg

from admin_svc.counting.aggregate import Aggregator
from admin_svc.counting.visitor_numbers import VisitorNumbers
from admin_svc.schedule import jobs, runs
from admin_svc.schedule.jobs import Job
from admin_svc.schedule.schedule import Schedule
from common.db import Database
from common.settings import Settings

START = datetime(2026, 1, 5, 12, tzinfo=UTC)
SITES = (1, 2, 3)

MAKE_SITES = """
INSERT INTO sites (site_id, slug, name, status, session_timeout_us, dedupe_retention_us, rollup_shard_count,
                   allowed_property_keys, denied_property_keys, allowed_origins, created_at, updated_at)
SELECT n, 'site-' || n, '', 1, 1800000000, 1, 1, '{}', '{}', '{}', %(now)s, %(now)s FROM unnest(%(sites)s::int[]) AS n
"""
# `count` events of a site, each a batch of its own and pending.
_EVENTS = """
WITH made AS (
    INSERT INTO events (occurred_at, received_at, batch_id, site_id, ord, event_id, type, visitor_id, path)
    SELECT %(at)s + n * interval '1 second', %(at)s, %(first)s + n, %(site)s, 0, gen_random_uuid(), 1, 'v' || n %% 5,
           %(path)s
    FROM generate_series(1, %(count)s) AS n RETURNING site_id, batch_id
)
INSERT INTO pending_batches (site_id, partition, batch_id, first_ord, last_ord, received_at, not_before)
SELECT site_id, 0, batch_id, 0, 0, %(at)s, %(at)s FROM made
"""

Connection = psycopg.Connection[Any]


@dataclass
class Bench:
    """A database of three sites, and schedules on it with one clock."""

    url: str
    connection: Connection
    now: datetime = START
    opened: list[Database] = field(default_factory=list)
    _batches: int = 0

    def clock(self) -> datetime:
        return self.now

    def database(self) -> Database:
        """A pool of its own, as another process has."""
        self.opened.append(Database(self.url, application="test"))
        return self.opened[-1]

    def schedule(self, *, seconds: float = 60.0, chunks: int = 1_000, made: list[Job] | None = None) -> Schedule:
        """As another process has it; nothing of it runs by itself."""
        return Schedule(self.database(), made or self.jobs(), self.clock, run_seconds=seconds, run_chunks=chunks)

    def jobs(self, **settings: Any) -> list[Job]:
        """All jobs."""
        aggregator = Aggregator(VisitorNumbers(self.database()))
        return jobs.jobs(Settings(database_url=self.url, **settings), aggregator)

    def job(self, name: str) -> Job:
        return next(job for job in self.jobs() if job.name == name)

    def add(self, site_id: int, count: int, *, path: str = "/", at: datetime = START) -> None:
        """Pending events of a site."""
        self._batches += 10_000
        self.connection.execute(
            _EVENTS, {"site": site_id, "count": count, "first": self._batches, "path": path, "at": at}
        )

    def count(self, table: str, site_id: int | None = None) -> int:
        where = "" if site_id is None else f"WHERE site_id = {site_id}"
        found: int = self.connection.execute(f"SELECT count(*) FROM {table} {where}").fetchall()[0][0]
        return found

    def told(self, site_id: int) -> dict[str, runs.Run]:
        """The last run of each job that GetStatus returns."""
        with self.opened[0].snapshot() as snapshot:
            return {run.job: run for run in runs.last_runs(snapshot, [site_id])[site_id]}
