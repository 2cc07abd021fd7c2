"""Metrics of what waits in the database: pending events, deltas and dead letters of all sites."""

import logging
import threading
import time
from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

import psycopg
from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from admin_svc.status import SiteState, site_states
from common.clock import Clock
from common.db import Database, DatabaseFault
from common.telemetry.busiest import MOST

_log = logging.getLogger(__name__)

SAMPLE_SECONDS = 15.0
_SHARE = 50
"""After a sample that took t seconds comes a pause of at least 50 t: reading takes 2 % of one connection at most."""
_SITES_A_STATEMENT = 500


class Backlog(NamedTuple):
    """The backlog of all sites at one time."""

    sampled_at: datetime
    pending: int
    oldest: datetime | None
    deltas: int
    dead_letters: int
    rebuilding: int
    by_site: list[SiteState]
    """The sites with the most pending events, 20 at most."""


class BacklogMetrics(Collector):
    """Reads the backlog every 15 s in a thread of its own, so that a database that stands still holds up no scrape.

    Every admin process reads the same database, so every one tells the same: take the maximum, not the sum.
    """

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._last: Backlog | None = None
        self._stopping = threading.Event()

    def start(self) -> None:
        """Reads from now on, and shows the metrics."""
        REGISTRY.register(self)
        threading.Thread(target=self._run, name="backlog", daemon=True).start()

    def stop(self) -> None:
        """No further sample is begun. One under way is not waited for."""
        self._stopping.set()

    def sample(self) -> None:
        """Reads the backlog once, site by site in statements of 500 sites. Raises DatabaseFault and psycopg.Error."""
        now = self._clock()
        pending = deltas = dead_letters = rebuilding = 0
        oldest: datetime | None = None
        busiest: list[SiteState] = []
        after = ""
        with self._db.connection() as connection:
            while states := site_states(connection, "", after, _SITES_A_STATEMENT):
                for state in states:
                    pending += state.pending
                    deltas += state.deltas
                    dead_letters += state.dead_letters
                    rebuilding += state.rebuilding
                    if state.oldest is not None and (oldest is None or state.oldest < oldest):
                        oldest = state.oldest
                busiest = sorted(
                    (state for state in (*busiest, *states) if state.pending), key=lambda state: -state.pending
                )[:MOST]
                after = states[-1].slug
                if len(states) < _SITES_A_STATEMENT or self._stopping.is_set():
                    break
        self._last = Backlog(now, pending, oldest, deltas, dead_letters, rebuilding, busiest)

    def describe(self) -> Iterable[Metric]:
        """Nothing: before the first sample there are no metrics."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """The gauges of the last sample; none before the first."""
        last = self._last
        if last is None:
            return
        oldest_age, sample_age = _age(last.sampled_at, last.oldest), _age(self._clock(), last.sampled_at)
        for name, help_text, value in (
            ("pending_events", "Events that are acknowledged and not aggregated", last.pending),
            ("oldest_pending_age_seconds", "Age of the oldest of them; 0 = none is pending", oldest_age),
            ("deltas", "Rollup deltas that are not compacted; a site counts with 100,000 at most", last.deltas),
            ("dead_letters", "Events that failed three times", last.dead_letters),
            ("rebuilding_sites", "Sites with a rebuild that has not ended", last.rebuilding),
            ("backlog_sample_age_seconds", "Age of these figures of the database", sample_age),
        ):
            yield GaugeMetricFamily(f"footfall_{name}", help_text, value)
        of_sites = GaugeMetricFamily(
            "footfall_busiest_site_pending_events", "The 20 sites with the most pending events", labels=("site",)
        )
        for state in last.by_site:
            of_sites.add_metric((state.slug,), state.pending)
        yield of_sites

    def _run(self) -> None:
        pause = 0.0
        while not self._stopping.wait(pause):
            began = time.monotonic()
            try:
                self.sample()
            except (*DatabaseFault, psycopg.Error) as error:
                # The age of the last sample grows, and an alert tells of it.
                _log.debug("the backlog cannot be read now: %s", error)
            pause = max(SAMPLE_SECONDS, _SHARE * (time.monotonic() - began))


def _age(now: datetime, then: datetime | None) -> float:
    return 0.0 if then is None else max(0.0, (now - then).total_seconds())
