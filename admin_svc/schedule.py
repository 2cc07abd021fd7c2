"""What the admin process does by itself: APScheduler runs each job at its interval, one run at a time."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
from apscheduler.schedulers.background import BackgroundScheduler

from admin_svc import compact
from admin_svc.aggregate import DEFAULT_LIMIT as AGGREGATE_LIMIT
from admin_svc.aggregate import Aggregator
from admin_svc.compact import sites_with_deltas
from common.clock import Clock
from common.db import Database, DatabaseFault

_log = logging.getLogger(__name__)

AGGREGATE_EVERY_SECONDS = 0.2
FOLD_EVERY_SECONDS = 2.0
"""Well under a minute of deltas: a hot hour's keys hold some ten of them each."""
_TICK_SECONDS = 10.0
"""How long one run goes on while there is work; then the scheduler has a say again."""

Job = Callable[[psycopg.Connection[Any]], bool]
"""Does one bounded page; answers whether there was something to do."""


class Schedule:
    """The background jobs of one admin process. Several processes may run them at once."""

    def __init__(self, db: Database, aggregator: Aggregator, clock: Clock, *, aggregate: bool, fold: bool) -> None:
        self._db = db
        self._stopping = threading.Event()
        self._last_folded = -1
        self._scheduler = BackgroundScheduler(timezone="UTC")

        def aggregate_page(connection: psycopg.Connection[Any]) -> bool:
            return aggregator.run_once(connection, clock(), AGGREGATE_LIMIT).worked

        def fold_page(connection: psycopg.Connection[Any]) -> bool:
            # Sites take turns, so that the first does not keep the others waiting.
            sites = sites_with_deltas(connection)
            for site_id in sorted(sites, key=lambda site_id: (site_id <= self._last_folded, site_id)):
                self._last_folded = site_id
                if compact.run_once(connection, site_id, compact.DEFAULT_LIMIT).shards:
                    return True
                if self._stopping.is_set():
                    break
            return False

        if aggregate:
            self._add("aggregate", aggregate_page, AGGREGATE_EVERY_SECONDS)
        if fold:
            self._add("fold", fold_page, FOLD_EVERY_SECONDS)

    def start(self) -> None:
        """Starts the jobs in threads of their own."""
        self._scheduler.start()

    def stop(self) -> None:
        """Lets the pages under way finish and ends."""
        self._stopping.set()
        self._scheduler.shutdown(wait=True)

    def _add(self, name: str, job: Job, seconds: float) -> None:
        self._scheduler.add_job(
            self._run,
            "interval",
            args=(name, job),
            seconds=seconds,
            id=name,
            max_instances=1,
            coalesce=True,
            misfire_grace_time=None,
        )

    def _run(self, name: str, job: Job) -> None:
        """Pages until there is nothing to do, bounded in time."""
        until = time.monotonic() + _TICK_SECONDS
        try:
            with self._db.connection() as connection:
                while not self._stopping.is_set() and time.monotonic() < until and job(connection):
                    pass
        except DatabaseFault as error:
            # Postgres is away or two workers met: the next run tries again, nothing is lost.
            _log.warning("%s could not run: %s", name, error)
