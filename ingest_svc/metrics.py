"""Metrics of ingest: events by outcome, the queue, and the groups that are committed together."""

import time
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Protocol, TypeVar

from prometheus_client import REGISTRY, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from common.telemetry import tracing
from common.telemetry.busiest import Busiest


class _Events(Collector):
    """Counts events. Only the event loop's thread adds; three integers cost less than the library's counters."""

    def __init__(self) -> None:
        self.accepted = 0
        self.duplicate = 0
        self.rejected = 0

    def describe(self) -> Iterable[Metric]:
        """The family without samples."""
        yield self._family()

    def collect(self) -> Iterable[Metric]:
        """The counter."""
        family = self._family()
        for outcome in ("accepted", "duplicate", "rejected"):
            family.add_metric((outcome,), getattr(self, outcome))
        yield family

    def _family(self) -> CounterMetricFamily:
        help_text = "Events that were answered, by outcome; a duplicate is one whose dedupe key was reserved before"
        return CounterMetricFamily("footfall_ingest_events", help_text, labels=("outcome",))


_EVENTS = _Events()
_SITE_EVENTS = Busiest(
    "footfall_busiest_site_events_per_second",
    "The 20 sites that sent most events in the last minute, and how many a second, whatever became of them",
)
for _collector in (_EVENTS, _SITE_EVENTS):
    REGISTRY.register(_collector)

_QUEUED = Gauge("footfall_ingest_queue_events", "Events that wait to be stored or are being stored")
_QUEUE_LIMIT = Gauge("footfall_ingest_queue_limit_events", "How many of them there may be; over it calls are refused")
_GROUP_EVENTS = Histogram(
    "footfall_ingest_group_events",
    "Valid events of one transaction, duplicates included",
    buckets=(1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000),
)
_COMMITS = Histogram(
    "footfall_ingest_commit_seconds",
    "Durations of transactions that stored a group, COMMIT included, and of those that failed",
    ("outcome",),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
_STORED, _FAILED = _COMMITS.labels("stored"), _COMMITS.labels("failed")


class _Call(Protocol):
    """A call whose events are stored."""

    @property
    def rows(self) -> Sequence[object]: ...
    @property
    def trace(self) -> object: ...


def count_events(site: str, accepted: int, duplicate: int, rejected: int) -> None:
    """A batch of a site was answered. Call it in the event loop's thread."""
    _EVENTS.accepted += accepted
    _EVENTS.duplicate += duplicate
    _EVENTS.rejected += rejected
    _SITE_EVENTS.add(site, accepted + duplicate + rejected)


def watch_queue(queued_events: Callable[[], int], limit: int) -> None:
    """The queue of this process: how many events are in it, asked at each scrape, and how many may be."""
    _QUEUED.set_function(queued_events)
    _QUEUE_LIMIT.set(limit)


Committer = TypeVar("Committer")
Call = TypeVar("Call", bound=_Call)


def watched_commit(
    commit: Callable[[Committer, list[Call]], list[int]],
) -> Callable[[Committer, list[Call]], list[int]]:
    """A method that stores a group of calls in one transaction, measured, and traced below its first call."""

    @wraps(commit)
    def watched(self: Committer, calls: list[Call]) -> list[int]:
        began, duration = time.perf_counter(), _FAILED
        _GROUP_EVENTS.observe(sum(len(call.rows) for call in calls))
        try:
            with tracing.span_of_calls("store events", (call.trace for call in calls)):
                accepted = commit(self, calls)
            duration = _STORED
            return accepted
        finally:
            duration.observe(time.perf_counter() - began)

    return watched
