"""How soon events are aggregated when they belong to many small sites, or to many days and pages.

    python -m bench.pressure_aggregation [--scale 0.1] [--json FILE]

A thousand sites send one event each, as fast as ingest takes them; then 414 single events a second for 20 s, each to a
site by chance. Last, one site has a backlog of 250,000 events of 30 days on 200,000 pages. The admin process aggregates
the small sites by itself, and the backlog by AggregatePending.
"""

import random
import time
from collections.abc import Sequence

from footfall.ingest.v1 import ingest_pb2
from footfall.type.v1 import event_pb2

from bench.aggregate import drain
from bench.backlog import send_backlog
from bench.command_line import main, say
from bench.dataset import EVENTS_A_VISITOR, START
from bench.events import uuid7
from bench.figures import Figure
from bench.ingest import requests_of
from bench.own_suite import Stage, open_stage
from bench.senders import offer_each
from bench.yardstick import Yardstick

PART = "small sites, wide site"
SITES = 1_000
SITES_SECONDS = 5.0
LAG_SECONDS = 5.0
BACKLOG_SECONDS = 30.0

_RATE = 414.0
_RATE_SECONDS = 20.0
_BURST = 500.0
"""Calls a second by which the first event of each site is sent."""
_EVENTS = 250_000
_PAGES = 200_000
_DAYS = 30
_EVENTS_A_BATCH = 500
_POLL_SECONDS = 0.05
_WAIT_SECONDS = 300.0
_MICROS_A_DAY = 86_400_000_000
_PENDING = """
SELECT coalesce(sum(last_ord - first_ord + 1), 0)::bigint FROM pending_batches
"""


def measure(scale: float) -> list[Figure]:
    """Measures the small sites on one suite and the wide site on another."""
    with open_stage(FOOTFALL_SCHEDULE="on") as stage:
        found = _small_sites(stage, scale)
    with open_stage() as stage:
        return found + _wide_site(stage, scale)


def _small_sites(stage: Stage, scale: float) -> list[Figure]:
    rng = random.Random(1)
    sites = max(10, round(SITES * scale))
    keys = stage.create_sites([f"small-{number:04d}" for number in range(sites)])
    say(f"{PART}: {sites:,} sites created")
    sent = offer_each(stage.connection.ingest, keys, requests_of(sites, 1, rng), _BURST)
    assert sent.accepted == sites, sent
    behind = _pending(stage)
    seconds = _until_aggregated(stage)
    say(f"{PART}: {sites:,} events acknowledged in {sent.seconds:.1f} s, aggregated {seconds:.1f} s later")
    calls = max(100, round(_RATE * _RATE_SECONDS * scale))
    chosen = rng.choices(keys, k=calls)
    steady = offer_each(stage.connection.ingest, chosen, requests_of(calls, 1, rng), _RATE)
    backlog = _pending(stage)
    lag = _until_aggregated(stage)
    say(f"{PART}: {steady.rate:.0f} events/s over {sites:,} sites: {backlog:,} events pending at the end")
    return [
        Figure(PART, f"{sites:,} sites, one event each: last aggregated", seconds, "s", SITES_SECONDS, at_least=False),
        Figure(PART, "  pending when the last was acknowledged", behind, "events"),
        Figure(PART, f"{_RATE:.0f} events/s over them: acknowledged", steady.rate, "events/s"),
        Figure(PART, "  pending at the end", backlog, "events", _RATE * LAG_SECONDS, at_least=False),
        Figure(PART, "  until these were aggregated", lag, "s", LAG_SECONDS, at_least=False),
        Figure(PART, "  calls refused", steady.refused, "calls", 0.0, at_least=False),
    ]


def _wide_site(stage: Stage, scale: float) -> list[Figure]:
    yardstick = Yardstick(stage.database_url)
    requests = _wide(round(_EVENTS * scale), round(_PAGES * scale), random.Random(2))
    sent = send_backlog(stage, stage.create_site("wide"), requests)
    yardstick.run(round(50_000 * scale))
    with stage.another("admin") as (connection, _):
        began = time.perf_counter()
        done = drain(connection, "wide")
        seconds = time.perf_counter() - began
    yardstick.run(round(50_000 * scale))
    assert done == sent, f"{done} of {sent} events were aggregated"
    say(f"{PART}: {done:,} events of {_DAYS} days aggregated in {seconds:.1f} s")
    name = f"{done:,} events of {_DAYS} days, {round(_PAGES * scale):,} pages"
    return [
        Figure(PART, f"{name}: aggregated", seconds, "s", BACKLOG_SECONDS, at_least=False),
        Figure(PART, "  over the bare loop", done / seconds / yardstick.rate, "×"),
        Figure(PART, "  bare loop", yardstick.rate, "events/s"),
    ]


def _wide(events: int, pages: int, rng: random.Random) -> list[bytes]:
    """Encoded batches, oldest events first. Of each page one event, then the rest wherever chance puts them."""
    shown = [*range(min(pages, events)), *(rng.randrange(pages) for _ in range(events - pages))]
    rng.shuffle(shown)
    begin = round(START.timestamp()) * 1_000_000
    moments = sorted(begin + rng.randrange(_DAYS * _MICROS_A_DAY) for _ in range(events))
    visitors = max(1, events // EVENTS_A_VISITOR)
    both = list(zip(moments, shown, strict=True))
    return [_batch(both[start : start + _EVENTS_A_BATCH], visitors, rng) for start in range(0, events, _EVENTS_A_BATCH)]


def _batch(part: Sequence[tuple[int, int]], visitors: int, rng: random.Random) -> bytes:
    request = ingest_pb2.IngestBatchRequest()
    for at, page in part:
        visitor = rng.randrange(visitors)
        event = request.events.add(
            event_id=uuid7(),
            type=event_pb2.EVENT_TYPE_PAGEVIEW,
            visitor_id=f"visitor-{visitor:06d}",
            path=f"/articles/{page:06d}",
            referrer=f"https://site-{visitor % 1_000}.example.org/",
            context=event_pb2.Context(browser=f"browser {visitor % 5}", country=f"C{visitor % 200}"),
        )
        event.occurred_at.FromMicroseconds(at)
    return request.SerializeToString()


def _pending(stage: Stage) -> int:
    """How many events are pending."""
    with stage.database() as connection:
        row = connection.execute(_PENDING).fetchone()
    assert row is not None
    return int(row[0])


def _until_aggregated(stage: Stage) -> float:
    """Waits until nothing is pending, for five minutes at most. Returns the seconds that took."""
    began = time.perf_counter()
    with stage.database() as connection:
        while (spent := time.perf_counter() - began) < _WAIT_SECONDS:
            row = connection.execute("SELECT EXISTS (SELECT FROM pending_batches)").fetchone()
            if row == (False,):
                break
            time.sleep(_POLL_SECONDS)
    return spent


if __name__ == "__main__":
    main(__doc__, measure)
