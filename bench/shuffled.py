"""Checks the answers when many events arrive shuffled and repeated: runs `footfall verify` on a suite of its own.

    python -m bench.shuffled [--events 200000] [--partitions 4] [--callers 8] [--repeats 0.1]

Exits with 1 if an answer differs from the recount or an event was not aggregated exactly once.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import typer
from footfall.admin.v1 import admin_pb2
from footfall.ingest.v1 import ingest_pb2
from footfall.query.v1 import query_pb2
from footfall.type.v1 import event_pb2

from cli.connection import Connection
from cli.report_range import time_range
from cli.suite import running_suite
from cli.verify import verify

SITE = "shuffled"
START = datetime(2024, 2, 26, tzinfo=UTC)
SPAN = START - timedelta(days=1), START + timedelta(days=365)
BATCH = 500
_EVENTS_A_VISITOR = 20
_TIMEOUT = 30 * 60 * 1_000_000
# The gaps between two events of a visitor, in µs: close to the session timeout and far from it.
_STEPS = (0, 1, 1_000_000, 300_000_000, _TIMEOUT - 1, _TIMEOUT, _TIMEOUT + 1, 4 * _TIMEOUT, 40 * _TIMEOUT)
_KINDS = (event_pb2.EVENT_TYPE_PAGEVIEW, event_pb2.EVENT_TYPE_TRACK, event_pb2.EVENT_TYPE_IDENTIFY)
_POLL_SECONDS = 0.2


def made_up(count: int, rng: random.Random) -> Iterator[ingest_pb2.Event]:
    """Events of some days. Those of a visitor are in order of time; their ids are in no order."""
    for number in range(count):
        if number % _EVENTS_A_VISITOR == 0:
            visitor, at = f"visitor {number // _EVENTS_A_VISITOR}", rng.randrange(6 * 86_400) * 1_000_000
        at += rng.choice(_STEPS)
        kind = rng.choices(_KINDS, (7, 2, 1))[0]
        event = ingest_pb2.Event(
            event_id=f"{rng.getrandbits(128):032x}-{number}" if number % 3 else "",
            type=kind,
            visitor_id=visitor,
            session_id=rng.choice(("", "", "tab 1", "tab 2")),
            name=rng.choice(("buy", "sign up")) if kind == event_pb2.EVENT_TYPE_TRACK else "",
            user_id=f"user {rng.randrange(9)}" if kind == event_pb2.EVENT_TYPE_IDENTIFY else "",
            path=rng.choice(("", "/", f"/{int(rng.paretovariate(1))}")),
            referrer=rng.choice(("", "https://www.example.org/")),
            context=event_pb2.Context(
                source=rng.choice(("", "web")),
                device=rng.choice(("desktop", "mobile")),
                country=rng.choice(("DE", "IN", "")),
                utm_source=rng.choice(("", "", "newsletter")),
            ),
        )
        # An event without an id is identified by its content, so this makes each one different.
        event.properties.update({"number": number})
        event.occurred_at.FromDatetime(START + timedelta(microseconds=at))
        yield event


def send(connection: Connection, key: str, events: Sequence[ingest_pb2.Event], callers: int) -> tuple[int, int]:
    """Sends the events in batches from several threads. Returns how many were accepted and how many were duplicates."""
    batches = [events[at : at + BATCH] for at in range(0, len(events), BATCH)]
    with connection.open_ingest() as ingest, ThreadPoolExecutor(callers) as threads:

        def call(batch: Sequence[ingest_pb2.Event]) -> ingest_pb2.IngestBatchResponse:
            request = ingest_pb2.IngestBatchRequest(events=batch)
            response: ingest_pb2.IngestBatchResponse = ingest.IngestBatch(request, metadata=(("x-write-key", key),))
            return response

        answers = list(threads.map(call, batches))
    assert not any(answer.rejected for answer in answers)
    return sum(answer.accepted for answer in answers), sum(answer.duplicate for answer in answers)


def wait_until_aggregated(connection: Connection) -> int:
    """Waits until nothing is pending. Returns how many events are aggregated."""
    with connection.open_query() as query:
        while True:
            told = query.GetOverview(query_pb2.GetOverviewRequest(site=SITE, range=time_range(*SPAN)))
            if not told.metadata.pending_events:
                return told.metrics.events
            time.sleep(_POLL_SECONDS)


def check(folder: Path, options: argparse.Namespace) -> bool:
    """Sends, waits and verifies. Returns whether everything was right."""
    rng = random.Random(options.seed)  # the same events every time
    began = time.perf_counter()

    def lap(what: str) -> None:
        nonlocal began
        now = time.perf_counter()
        print(f"{what:<60} {now - began:>7.1f} s  {options.events / (now - began):>9,.0f} events/s", flush=True)
        began = now

    events = list(made_up(options.events, rng))
    repeats = rng.choices(events, k=int(len(events) * options.repeats))
    arriving = rng.sample([*events, *repeats], len(events) + len(repeats))
    lap("generated and shuffled")
    with running_suite(folder, (0, 0, 0), os.environ) as connection:
        settings = admin_pb2.SiteSettings(retention_days=36_500, rollup_shard_count=options.partitions)
        with connection.open_admin() as admin:
            key = admin.CreateSite(admin_pb2.CreateSiteRequest(slug=SITE, settings=settings)).write_key
        began = time.perf_counter()
        told = send(connection, key, arriving, options.callers)
        lap(f"sent: {told[0]:,} accepted, {told[1]:,} duplicates")
        aggregated = wait_until_aggregated(connection)
        lap(f"aggregated the rest: {aggregated:,} events in all")
        right = told == (len(events), len(repeats)) and aggregated == len(events)
        if not right:
            print(f"{len(events):,} events and {len(repeats):,} repeats were sent", file=sys.stderr)
        try:
            verify(SITE, data_dir=folder)
        except typer.Exit as ended:
            right = right and not ended.exit_code
        lap("verified")
    return right


def main() -> None:
    """Prints how long each part took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--repeats", type=float, default=0.1, help="share of the events that come twice")
    parser.add_argument("--seed", type=int, default=1)
    folder = Path(tempfile.mkdtemp(prefix="footfall-shuffled-"))
    folder.chmod(0o755)
    try:
        right = check(folder, parser.parse_args())
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(not right)


if __name__ == "__main__":
    main()
