"""What a flood on one site costs the single events of another.

    python -m bench.ingest_shares [--scale 0.1] [--json FILE]

One caller sends single events of the quiet site, each after the answer to the one before: alone, beside callers that
flood the loud site, and beside a flood whose commits wait for a dedupe key that another transaction holds.
"""

import asyncio
import itertools
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import psycopg

from bench.command_line import main
from bench.events import batch
from bench.figures import Figure
from bench.ingest import requests_of
from bench.own_suite import Stage, open_stage
from bench.senders import Sent, call_all
from common.db import plain_url
from ingest_svc.event_ids import hashed_id

PART = "ingest_shares"
_EVENTS = 1_000
"""How many single events the quiet site sends in each case."""
_CALLERS = 64
_BATCH = 500
_BATCHES = 200
"""How many different batches the flood has. When they are through they are sent again, as duplicates."""
_HELD = "held by another transaction"

_FLOOD = """
import asyncio, sys
from bench.ingest_shares import flood
asyncio.run(flood(*sys.argv[1:]))
"""


def measure(scale: float) -> list[Figure]:
    """Latencies of the quiet site's events in the three cases, and how many of them were refused."""
    with open_stage() as stage:
        quiet, loud = stage.create_site("quiet"), stage.create_site("loud")
        requests = requests_of(round(_EVENTS * scale) + 100, 1, random.Random(1))
        figures = _figures("alone", _send(stage, quiet, requests))
        with _flooded(stage, loud):
            figures += _figures("beside a flood", _send(stage, quiet, requests))
        with _held_key(stage), _flooded(stage, loud):
            figures += _figures("beside a flood that is locked", _send(stage, quiet, requests))
        return figures


def _send(stage: Stage, key: str, requests: list[bytes]) -> Sent:
    return call_all(stage.connection.ingest, key, requests, 1)


def _figures(case: str, sent: Sent) -> list[Figure]:
    figures = [Figure(PART, f"one event {case}, p{part}", sent.percentile(part), "ms") for part in (50, 95, 99)]
    return [*figures, Figure(PART, f"one event {case}, slowest", max(sent.latencies) * 1e3, "ms")]


@contextmanager
def _flooded(stage: Stage, key: str) -> Iterator[None]:
    """A process whose callers send batches of 500 events, and send again at once whatever the answer is."""
    flooder = subprocess.Popen([sys.executable, "-c", _FLOOD, stage.connection.ingest, key], stdout=subprocess.PIPE)
    try:
        assert flooder.stdout is not None
        flooder.stdout.readline()
        yield
    finally:
        flooder.kill()
        flooder.wait()


def _flood_requests() -> Iterator[bytes]:
    rng = random.Random(2)
    for _ in range(_BATCHES):
        request = batch(_BATCH, rng)
        request.events[0].event_id = _HELD
        yield request.SerializeToString()


async def flood(address: str, key: str) -> None:
    """Floods a site until the process is killed. Writes a line once every caller has an answer."""
    bodies = itertools.cycle([*_flood_requests()])
    async with grpc.aio.insecure_channel(address) as channel:
        call: Any = channel.unary_unary("/footfall.ingest.v1.IngestService/IngestBatch")  # type: ignore[call-arg]
        metadata = (("x-write-key", key),)

        async def caller() -> None:
            while True:
                try:
                    await call(next(bodies), metadata=metadata)
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.02)

        callers = [asyncio.create_task(caller()) for _ in range(_CALLERS)]
        await asyncio.sleep(1)
        print("flooding", flush=True)
        await asyncio.gather(*callers)


@contextmanager
def _held_key(stage: Stage) -> Iterator[None]:
    """Holds a key that each of the flood's batches has."""
    with psycopg.connect(plain_url(stage.database_url)) as holder:
        holder.execute("DELETE FROM ingest_dedupes WHERE dedupe_key = %s", (hashed_id(_HELD).hex(),))
        holder.execute(
            "INSERT INTO ingest_dedupes SELECT %s, site_id, %s FROM sites WHERE slug = 'loud'",
            (datetime.now(UTC) + timedelta(days=1), hashed_id(_HELD).hex()),
        )
        yield
        holder.rollback()


if __name__ == "__main__":
    main(__doc__, measure)
