"""The schedule of the admin process: APScheduler runs each job at its interval, one run of a job at a time.

A run goes round the sites that have work, one chunk each, until no site has work or the run's time or number of chunks
is spent. The next run continues. So no site waits for another's backlog, and a run always ends.
"""

import logging
import threading
import time
from datetime import datetime

from apscheduler.schedulers.background import BackgroundScheduler

from admin_svc.chunk import Chunk
from admin_svc.error_text import error_text
from admin_svc.metrics import count_chunk, expect_jobs
from admin_svc.schedule.jobs import Connection, Job
from admin_svc.schedule.runs import Run, record
from admin_svc.site_lock import SiteBusy
from common.clock import Clock
from common.db import Database, DatabaseFault
from common.telemetry import tracing

_log = logging.getLogger(__name__)

_MOST_JITTER_SECONDS = 30.0


class Schedule:
    """The background jobs of one admin process. Several processes may run them at once."""

    def __init__(self, db: Database, jobs: list[Job], clock: Clock, *, run_seconds: float, run_chunks: int) -> None:
        """A run ends after `run_seconds` or `run_chunks` chunks, even if there is work left."""
        self._db = db
        self._clock = clock
        self._run_seconds = run_seconds
        self._run_chunks = run_chunks
        self._stopping = threading.Event()
        self._jobs = {job.name: job for job in jobs}
        expect_jobs(list(self._jobs))
        self._last_site = dict.fromkeys(self._jobs, -1)
        self._scheduler = BackgroundScheduler(timezone="UTC")
        for job in jobs:
            if job.seconds:
                self._scheduler.add_job(
                    self.run_once,
                    "interval",
                    args=(job.name,),
                    seconds=job.seconds,
                    # So that processes that were started together do not run the job at the same moments.
                    jitter=min(job.seconds / 10, _MOST_JITTER_SECONDS),
                    id=job.name,
                    max_instances=1,
                    coalesce=True,
                    misfire_grace_time=None,
                )

    def start(self) -> None:
        """Starts the scheduler, which runs the jobs in threads."""
        for job in self._jobs.values():
            if job.seconds:
                _log.info("the job %s %s, every %g s, %d rows a chunk", job.name, job.does, job.seconds, job.limit)
        self._scheduler.start()

    def stop(self) -> None:
        """Returns when the chunks under way are finished. No further chunk is started."""
        self._stopping.set()
        self._scheduler.shutdown(wait=True)

    def run_once(self, name: str) -> None:
        """Does one run of a job. Errors are logged and stored with the run, not raised; the next run tries again."""
        runs: dict[int, Run] = {}
        try:
            with self._db.connection() as connection:
                self._run(connection, self._jobs[name], runs)
            if runs:
                # A new connection, because that of the run may have been lost with the last chunk.
                with self._db.connection() as connection:
                    for run in runs.values():
                        record(connection, run)
        except DatabaseFault as error:
            _log.warning("%s could not run: %s", name, error)
        except Exception:
            _log.exception("%s failed", name)

    def _run(self, connection: Connection, job: Job, runs: dict[int, Run]) -> None:
        """Does the chunks of a run, and puts what was done into `runs`, by site."""
        until, chunks = time.monotonic() + self._run_seconds, 0
        last = self._last_site[job.name]
        # The run begins with the site after the last one of the run before.
        sites = sorted(job.sites(connection, self._clock()), key=lambda site_id: (site_id <= last, site_id))
        while sites:
            for site_id in tuple(sites):
                if self._stopping.is_set() or time.monotonic() > until or chunks == self._run_chunks:
                    return
                self._last_site[job.name] = site_id
                chunks += 1
                started, began = self._clock(), time.perf_counter()
                with tracing.span(f"chunk of {job.name}", site_id=site_id):
                    chunk, error = self._chunk(connection, job, site_id, started)
                if chunk is None or not chunk.has_more:
                    sites.remove(site_id)
                rows = job.rows(chunk.done) if chunk else 0
                if chunk is not None or error is not None:
                    count_chunk(job.name, time.perf_counter() - began, rows, failed=error is not None)
                if rows or error:
                    runs[site_id] = _added(runs.get(site_id), job, site_id, started, self._clock(), rows, error)
                if connection.closed:
                    return

    def _chunk(
        self, connection: Connection, job: Job, site_id: int, now: datetime
    ) -> tuple[Chunk[tuple[int, ...]] | None, str | None]:
        """Does one chunk; returns it, or the error it ended with. An error of one site must not end the run."""
        try:
            return job.run_chunk(connection, site_id, now), None
        except SiteBusy:
            # It is being rebuilt or deleted. A later run tries again.
            return None, None
        except DatabaseFault as error:
            _log.warning("%s of site %d could not run: %s", job.name, site_id, error)
            return None, error_text(error)
        except Exception as error:
            _log.exception("%s of site %d failed", job.name, site_id)
            return None, error_text(error)


def _added(
    run: Run | None, job: Job, site_id: int, started: datetime, finished: datetime, rows: int, error: str | None
) -> Run:
    """The run (None = a new one) with one more chunk."""
    before = run or Run(site_id, job.name, started, finished, 0, 0)
    return before._replace(finished_at=finished, chunks=before.chunks + 1, rows=before.rows + rows, error=error)
