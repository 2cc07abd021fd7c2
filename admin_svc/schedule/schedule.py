"""The schedule of the admin process: APScheduler runs each job at its interval, one run of a job at a time.

A run works on the sites in turns (see job_run.py) until its time or number of chunks is spent. The next run continues.
So no site waits for another's backlog, and a run always ends.
"""

import logging
import threading
import time

from apscheduler.schedulers.background import BackgroundScheduler

from admin_svc.metrics import expect_jobs
from admin_svc.schedule.job_run import JobRun, LastSites
from admin_svc.schedule.jobs import Job
from admin_svc.schedule.runs import record
from common.clock import Clock
from common.db import Database, DatabaseFault

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
        self._last_sites = {name: LastSites() for name in self._jobs}
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
        try:
            with self._db.connection() as connection:
                until = time.monotonic() + self._run_seconds

                def may_go_on(chunks: int) -> bool:
                    return not self._stopping.is_set() and time.monotonic() <= until and chunks < self._run_chunks

                run = JobRun(connection, self._jobs[name], self._clock, self._last_sites[name], may_go_on)
                run.do()
            if run.runs:
                # A new connection, because that of the run may have been lost with the last chunk.
                with self._db.connection() as connection:
                    record(connection, list(run.runs.values()))
        except DatabaseFault as error:
            _log.warning("%s could not run: %s", name, error)
        except Exception:
            _log.exception("%s failed", name)
