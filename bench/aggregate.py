"""How many events a second are aggregated: a backlog drained by one worker, and by two workers on four partitions.

    python -m bench.aggregate [--scale 0.1] [--json FILE]

The workers are admin processes. AggregatePending is called for chunk after chunk, so that only aggregation is measured.
One worker, two workers and the yardstick (the bare loop that stores events) take turns, a sixth of the backlog each.
"""

import math
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

from footfall.admin.v1 import admin_pb2

from bench.backlog import make_backlog, send_backlog
from bench.command_line import main, say
from bench.figures import Figure
from bench.own_suite import open_stage, peak_memory
from bench.yardstick import Yardstick
from cli.connection import Connection

PART = "aggregate"
ONE_WORKER = 0.5
TWO_WORKERS = 1.5
WORKER_MEGABYTES = 400.0

EVENTS = 300_000
_YARDSTICK_EVENTS = 40_000
_SLICES = 6
_PARTITIONS = 4


def measure(scale: float) -> list[Figure]:
    """Measures one worker and two workers in turns, a slice of the backlog each, on a suite of its own."""
    slices = [_Slices("one-worker", workers=1, partitions=1), _Slices("two-workers", workers=2, partitions=_PARTITIONS)]
    events = round(EVENTS * scale)
    with open_stage() as stage, ExitStack() as stack:
        requests = make_backlog(events)
        for each in slices:
            sent = send_backlog(stage, stage.create_site(each.site, partitions=each.partitions), requests)
            assert sent == events, f"{sent} of {events} events were accepted"
            each.processes = [stack.enter_context(stage.another("admin")) for _ in range(each.workers)]
        pids = [pid for each in slices for _, pid in each.processes]
        peaks = stack.enter_context(peak_memory(pids))
        yardstick = Yardstick(stage.database_url)
        while slices[0].drained < events or slices[1].drained < events:
            yardstick.run(round(_YARDSTICK_EVENTS * scale))
            for each in slices:
                each.run(events // _SLICES)
            say("aggregate: " + ", ".join(f"{each.site} {each.drained:,}" for each in slices) + " events")
    one, two = slices
    ratio = statistics.median(rate / bare for rate, bare in zip(one.rates, yardstick.rates, strict=False))
    gain = statistics.median(of_two / of_one for of_two, of_one in zip(two.rates, one.rates, strict=False))
    return [
        Figure(PART, "one worker, over the bare loop", ratio, "×", ONE_WORKER),
        Figure(PART, "two workers and 4 partitions, over one worker", gain, "×", TWO_WORKERS),
        Figure(PART, "one worker", statistics.median(one.rates), "events/s"),
        Figure(PART, "two workers and 4 partitions", statistics.median(two.rates), "events/s"),
        Figure(PART, "bare loop", yardstick.rate, "events/s"),
        Figure(PART, "peak RSS of a worker", max(peaks), "MB", WORKER_MEGABYTES, at_least=False),
    ]


def drain(connection: Connection, site: str, chunk_events: int = 0, at_least: float = math.inf) -> int:
    """Aggregates chunk after chunk until nothing is due or `at_least` events are done. Returns how many these were.

    A chunk takes whole batches until it has `chunk_events` events; 0 = the default of the service.
    """
    aggregated, has_more = 0, True
    with connection.open_admin() as admin:
        while has_more and aggregated < at_least:
            chunk = admin.AggregatePending(admin_pb2.AggregatePendingRequest(site=site, limit=chunk_events))
            assert chunk.failed == 0, "an event failed"
            aggregated, has_more = aggregated + chunk.aggregated, chunk.has_more
    return aggregated


@dataclass
class _Slices:
    """A site's backlog, drained a slice at a time."""

    site: str
    workers: int
    partitions: int
    processes: list[tuple[Connection, int]] = field(default_factory=list)
    drained: int = 0
    rates: list[float] = field(default_factory=list)
    """Events a second of each slice."""

    def run(self, events: int) -> None:
        """Drains about `events` events, or those that are left."""
        with ThreadPoolExecutor(self.workers) as pool:
            began = time.perf_counter()
            share = events / self.workers
            done = sum(pool.map(lambda process: drain(process[0], self.site, 0, share), self.processes))
            seconds = time.perf_counter() - began
        self.drained += done
        # The rest of a backlog is too small to measure a rate.
        if done >= events / 2:
            self.rates.append(done / seconds)


if __name__ == "__main__":
    main(__doc__, measure)
