"""How many events a second are aggregated: a backlog drained by one worker, and by two over four lanes.

    python -m bench.aggregate [--scale 0.1] [--json FILE]

The workers are admin processes that are asked for page after page by AggregatePending, so that nothing but
aggregation is measured. The yardstick, the bare loop that stores events, takes turns with them.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from footfall.admin.v1 import admin_pb2

from bench.backlog import make_backlog, send_backlog
from bench.figures import Figure
from bench.part import main, say
from bench.stage import Stage, open_stage, peak_memory
from bench.yardstick import Yardstick
from cli.connection import Connection

PART = "aggregate"
ONE_WORKER = 0.5
TWO_WORKERS = 1.5
WORKER_MEGABYTES = 400.0

EVENTS = 300_000
_YARDSTICK_EVENTS = 100_000
_LANES = 4


def measure(scale: float) -> list[Figure]:
    """One worker, then two, on a suite of its own."""
    with open_stage() as stage:
        requests = make_backlog(round(EVENTS * scale))
        yardstick = Yardstick(stage.database_url)
        yardstick.run(round(_YARDSTICK_EVENTS * scale))
        one, memory_of_one = _drain(stage, "one-worker", requests, workers=1, lanes=1)
        yardstick.run(round(_YARDSTICK_EVENTS * scale))
        two, memory_of_two = _drain(stage, "two-workers", requests, workers=2, lanes=_LANES)
        yardstick.run(round(_YARDSTICK_EVENTS * scale))
    peak = max(memory_of_one, memory_of_two)
    return [
        Figure(PART, "one worker, over the bare loop", one / yardstick.rate, "×", ONE_WORKER),
        Figure(PART, "two workers and 4 lanes, over one worker", two / one, "×", TWO_WORKERS),
        Figure(PART, "one worker", one, "events/s"),
        Figure(PART, "two workers and 4 lanes", two, "events/s"),
        Figure(PART, "bare loop", yardstick.rate, "events/s"),
        Figure(PART, "peak RSS of a worker", peak, "MB", WORKER_MEGABYTES, at_least=False),
    ]


def drain(connection: Connection, site: str, page_events: int = 0) -> int:
    """Aggregates page after page until nothing is due; returns how many events that were.

    A page takes whole batches until it has `page_events`; 0 = as many as the service finds best.
    """
    aggregated, has_more = 0, True
    with connection.open_admin() as admin:
        while has_more:
            page = admin.AggregatePending(admin_pb2.AggregatePendingRequest(site=site, limit=page_events))
            assert page.failed == 0, "an event failed"
            aggregated, has_more = aggregated + page.aggregated, page.has_more
    return aggregated


def _drain(stage: Stage, site: str, requests: list[bytes], *, workers: int, lanes: int) -> tuple[float, float]:
    """Events a second, and the largest worker's memory in MB."""
    sent = send_backlog(stage, stage.create_site(site, lanes=lanes), requests)
    with ExitStack() as stack:
        # Every worker anew, so that none has the memory of an earlier run.
        processes = [stack.enter_context(stage.another("admin")) for _ in range(workers)]
        peaks = stack.enter_context(peak_memory([pid for _, pid in processes]))
        pool = stack.enter_context(ThreadPoolExecutor(workers))
        began = time.perf_counter()
        drained = sum(pool.map(lambda process: drain(process[0], site), processes))
        seconds = time.perf_counter() - began
    assert drained == sent, f"{drained} of {sent} events were aggregated"
    say(f"aggregate: {drained:,} events by {workers} worker(s) in {seconds:.1f} s")
    return drained / seconds, max(peaks)


if __name__ == "__main__":
    main(__doc__, measure)
