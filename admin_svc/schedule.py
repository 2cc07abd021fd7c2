"""What the admin process does by itself: APScheduler runs each job at its interval, one run at a time."""

import logging
import threading
import time

from apscheduler.schedulers.background import BackgroundScheduler

from admin_svc.aggregate import DEFAULT_LIMIT, Aggregator
from common.clock import Clock
from common.db import Database, DatabaseFault

_log = logging.getLogger(__name__)

AGGREGATE_EVERY_SECONDS = 0.2
_TICK_SECONDS = 10.0
"""How long one run goes on while there is work; then the scheduler has a say again."""


class Schedule:
    """The background jobs of one admin process. Several processes may run them at once."""

    def __init__(self, db: Database, aggregator: Aggregator, clock: Clock, *, aggregate: bool) -> None:
        self._db = db
        self._aggregator = aggregator
        self._clock = clock
        self._stopping = threading.Event()
        self._scheduler = BackgroundScheduler(timezone="UTC")
        if aggregate:
            self._scheduler.add_job(
                self._aggregate,
                "interval",
                seconds=AGGREGATE_EVERY_SECONDS,
                id="aggregate",
                max_instances=1,
                coalesce=True,
                misfire_grace_time=None,
            )

    def start(self) -> None:
        """Starts the jobs in threads of their own."""
        self._scheduler.start()

    def stop(self) -> None:
        """Lets the page under way finish and ends."""
        self._stopping.set()
        self._scheduler.shutdown(wait=True)

    def _aggregate(self) -> None:
        """Pages until nothing is due, bounded in time."""
        until = time.monotonic() + _TICK_SECONDS
        try:
            with self._db.connection() as connection:
                while not self._stopping.is_set() and time.monotonic() < until:
                    if not self._aggregator.run_once(connection, self._clock(), DEFAULT_LIMIT).worked:
                        return
        except DatabaseFault as error:
            # Postgres is away or two workers met: the next run tries again, nothing is lost.
            _log.warning("aggregation could not run: %s", error)
