"""What the admin process does by itself: APScheduler runs each job at its interval, one run at a time.

A run goes round the sites that have work, a page each, until there is none or its time or pages are spent; what is
left is the next run's. So no site waits for another's backlog, and a run always ends.
"""

import logging
import threading
import time
from datetime import datetime

from apscheduler.schedulers.background import BackgroundScheduler

from admin_svc import job_runs
from admin_svc.error_text import error_text
from admin_svc.jobs import Connection, Done, Job
from common.clock import Clock
from common.db import Database, DatabaseFault

_log = logging.getLogger(__name__)

_MOST_JITTER_SECONDS = 30.0


class Schedule:
    """The background jobs of one admin process. Several processes may run them at once."""

    def __init__(self, db: Database, jobs: list[Job], clock: Clock, *, run_seconds: float, run_pages: int) -> None:
        """A run ends after `run_seconds` or `run_pages` pages, though there is more to do."""
        self._db = db
        self._clock = clock
        self._run_seconds = run_seconds
        self._run_pages = run_pages
        self._stopping = threading.Event()
        self._jobs = {job.name: job for job in jobs}
        self._last_site = dict.fromkeys(self._jobs, -1)
        self._scheduler = BackgroundScheduler(timezone="UTC")
        for job in jobs:
            if job.seconds:
                self._scheduler.add_job(
                    self.run_once,
                    "interval",
                    args=(job.name,),
                    seconds=job.seconds,
                    # So that processes started together do not stay in step.
                    jitter=min(job.seconds / 10, _MOST_JITTER_SECONDS),
                    id=job.name,
                    max_instances=1,
                    coalesce=True,
                    misfire_grace_time=None,
                )

    def start(self) -> None:
        """Starts the jobs in threads of their own."""
        self._scheduler.start()

    def stop(self) -> None:
        """Lets the pages under way finish and ends."""
        self._stopping.set()
        self._scheduler.shutdown(wait=True)

    def run_once(self, name: str) -> None:
        """One run of a job. What goes wrong is logged and written down, never raised: the next run tries again."""
        runs: dict[int, job_runs.Run] = {}
        try:
            with self._db.connection() as connection:
                self._run(connection, self._jobs[name], runs)
            if runs:
                # Another connection: that of the run may have been lost with the last page.
                with self._db.connection() as connection:
                    for run in runs.values():
                        job_runs.record(connection, run)
        except DatabaseFault as error:
            _log.warning("%s could not run: %s", name, error)
        except Exception:
            _log.exception("%s failed", name)

    def _run(self, connection: Connection, job: Job, runs: dict[int, job_runs.Run]) -> None:
        """Writes down in `runs`, by site, what was done."""
        until, pages = time.monotonic() + self._run_seconds, 0
        last = self._last_site[job.name]
        # Whoever came last the time before is behind the others now.
        sites = sorted(job.sites(connection), key=lambda site_id: (site_id <= last, site_id))
        while sites:
            for site_id in tuple(sites):
                if self._stopping.is_set() or time.monotonic() > until or pages == self._run_pages:
                    return
                self._last_site[job.name] = site_id
                pages += 1
                started = self._clock()
                done, error = self._page(connection, job, site_id)
                if not done.more:
                    sites.remove(site_id)
                if done.rows or error:
                    runs[site_id] = _added(runs.get(site_id), job, site_id, started, self._clock(), done, error)
                if connection.closed:
                    return

    def _page(self, connection: Connection, job: Job, site_id: int) -> tuple[Done, str | None]:
        """One page, and what it failed with; a site that fails must not hold up the others."""
        try:
            return job.page(connection, site_id), None
        except Exception as error:
            if isinstance(error, DatabaseFault):
                _log.warning("%s of site %d could not run: %s", job.name, site_id, error)
            else:
                _log.exception("%s of site %d failed", job.name, site_id)
            return Done(0, False), error_text(error)


def _added(
    run: job_runs.Run | None,
    job: Job,
    site_id: int,
    started: datetime,
    finished: datetime,
    done: Done,
    error: str | None,
) -> job_runs.Run:
    """The run with one more page."""
    before = run or job_runs.Run(site_id, job.name, started, finished, 0, 0)
    return before._replace(finished_at=finished, pages=before.pages + 1, rows=before.rows + done.rows, error=error)
