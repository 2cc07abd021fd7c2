"""The highest rate at which ingest, aggregation and compaction keep up with one another.

    python -m bench.sustained [--scale 0.1] [--json FILE]

Batches of 50 events are sent at a fixed rate, whether or not earlier ones are answered, while the admin process
aggregates and compacts by itself. A rate is sustained if no call is refused, events are acknowledged at 97 % of it at
least, and at the end no acknowledged event has been pending for 2 s. Short runs search for the rate, with a limit of
1 s, because a backlog has less time to grow. A run of a minute has to confirm it.
"""

import random
from dataclasses import dataclass
from datetime import UTC, datetime

from footfall.query.v1 import query_pb2
from footfall.type.v1 import time_range_pb2

from bench.command_line import main, say
from bench.dataset import START
from bench.figures import Figure
from bench.ingest import requests_of
from bench.own_suite import Stage, open_stage
from bench.senders import Sent, offer
from bench.yardstick import Yardstick

PART = "sustained"
OVER_BARE = 0.25
LAG_SECONDS = 2.0

_SECONDS = 60.0
_SEARCH_SECONDS = 8.0
_SEARCH_LAG_SECONDS = 1.0
_SEARCHES = 4
_STEP = 1.3
_CAUTION = 0.85
"""The rate of a confirming run, as a part of what the runs before have sustained."""
_CONFIRMATIONS = 2
_EVENTS_A_CALL = 50
_YARDSTICK_EVENTS = 50_000
_IN_TIME = 0.97
"""The part of the offered rate that must be acknowledged."""


@dataclass(frozen=True)
class Run:
    """The result of offering a rate."""

    offered: float
    """Events a second."""
    sent: Sent
    lag: float
    """For how many seconds the oldest pending event has waited when the last event is acknowledged."""

    @property
    def aggregated_rate(self) -> float:
        """Events a second that were aggregated: those of the last `lag` seconds were not."""
        return self.sent.rate * max(0.0, 1 - self.lag / self.sent.seconds)

    def is_sustained(self, lag_seconds: float) -> bool:
        """Whether no call was refused, enough was acknowledged, and no event waits as long as `lag_seconds`."""
        in_time = self.sent.rate >= _IN_TIME * self.offered
        return not self.sent.refused and in_time and self.lag < lag_seconds


def measure(scale: float) -> list[Figure]:
    """Searches for the rate and confirms it, on a suite of its own. `scale` shortens the runs."""
    with open_stage(FOOTFALL_SCHEDULE="on") as stage:
        yardstick = Yardstick(stage.database_url)
        yardstick.run(round(_YARDSTICK_EVENTS * min(1.0, scale * 4)))
        load = _Load(stage)
        load.run(yardstick.rate * OVER_BARE / 2, 1.0)
        rate = _search(load, yardstick.rate * OVER_BARE, max(2.0, _SEARCH_SECONDS * min(1.0, scale * 4)))
        run = load.run(rate, _SECONDS * scale)
        for _ in range(_CONFIRMATIONS - 1):
            if run.is_sustained(LAG_SECONDS):
                break
            run = load.run(_CAUTION * run.aggregated_rate, _SECONDS * scale)
        yardstick.run(round(_YARDSTICK_EVENTS * min(1.0, scale * 4)))
    sustained = run.offered if run.is_sustained(LAG_SECONDS) else 0.0
    return [
        Figure(PART, "all three together, over the bare loop", sustained / yardstick.rate, "×", OVER_BARE),
        Figure(PART, "sustained rate (0 = the last run was not sustained)", sustained, "events/s"),
        Figure(PART, "lag at the end of the last run", run.lag, "s", LAG_SECONDS, at_least=False),
        Figure(PART, "rate offered in the last run", run.offered, "events/s"),
        Figure(PART, "p50 of a call", run.sent.percentile(50), "ms"),
        Figure(PART, "p99 of a call", run.sent.percentile(99), "ms"),
        Figure(PART, "bare loop", yardstick.rate, "events/s"),
    ]


def _search(load: "_Load", start: float, seconds: float) -> float:
    """85 % of the highest rate that a few short runs sustain: found in steps up or down, then by halving."""
    rate, sustained, too_much = start, 0.0, 0.0
    for _ in range(_SEARCHES):
        if load.run(rate, seconds).is_sustained(_SEARCH_LAG_SECONDS):
            sustained = max(sustained, rate)
        else:
            too_much = min(too_much or rate, rate)
        both = sustained and too_much
        rate = (sustained + too_much) / 2 if both else rate * _STEP if sustained else rate / _STEP
    return _CAUTION * (sustained or rate)


class _Load:
    """Offers rates to one site. Each run begins when no event is pending."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._key = stage.create_site("sustained")
        self._rng = random.Random(1)

    def run(self, events_a_second: float, seconds: float) -> Run:
        """Offers the rate for `seconds`."""
        calls_a_second = events_a_second / _EVENTS_A_CALL
        requests = requests_of(max(100, round(calls_a_second * seconds)), _EVENTS_A_CALL, self._rng)
        while self.lag():
            pass
        sent = offer(self._stage.connection.ingest, self._key, requests, calls_a_second)
        run = Run(events_a_second, sent, self.lag())
        say(
            f"sustained: {events_a_second:,.0f} events/s offered for {seconds:.0f} s, "
            f"{sent.rate:,.0f} acknowledged, {sent.refused} calls refused, lag {run.lag:.2f} s"
        )
        return run

    def lag(self) -> float:
        """For how many seconds the oldest pending event has waited; 0 if none is pending."""
        span = time_range_pb2.TimeRange()
        span.start_time.FromDatetime(START)
        span.end_time.FromDatetime(START.replace(day=2))
        with self._stage.connection.open_query() as query:
            answer = query.GetOverview(query_pb2.GetOverviewRequest(site="sustained", range=span))
        if not answer.metadata.pending_events:
            return 0.0
        through = answer.metadata.aggregated_through.ToDatetime(UTC)
        return float((datetime.now(UTC) - through).total_seconds())


if __name__ == "__main__":
    main(__doc__, measure)
