"""What a service still answers while a thousand streams without a key are open, and what a flood of good calls is told.

    python -m bench.pressure_streams [--scale 0.1] [--json FILE]

The streams (IngestStream, Health/Watch) are opened and left alone, a hundred on a connection. Meanwhile a health check,
a call with a key and an admin call are asked for. Then 1,600 calls with a write key are under way at once, because
commits are held up for a few seconds.
"""

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple

import grpc
import psycopg
from grpc_health.v1 import health_pb2

from bench.command_line import main, say
from bench.figures import Figure
from bench.ingest import requests_of
from bench.neighbour import OWN_CONNECTION
from bench.own_suite import Stage, open_stage
from bench.refusals import Refusal, refusal_of

PART = "keyless streams"
SLOWEST_MS = 1_000.0
STREAMS = 1_000
CALLS = 1_600

_STREAMS_A_CONNECTION = 100
_OPENING_SECONDS = 2.5
_ASKED = 10
_ASK_SECONDS = 5.0
_FLOOD_SECONDS = 120.0
_HELD_SECONDS = 4.0
_EVENTS_A_CALL = 10
_CHECK = "/grpc.health.v1.Health/Check"
_WATCH = "/grpc.health.v1.Health/Watch"
_INGEST_STREAM = "/footfall.ingest.v1.IngestService/IngestStream"
_INGEST_BATCH = "/footfall.ingest.v1.IngestService/IngestBatch"
_GET_STATUS = "/footfall.admin.v1.AdminService/GetStatus"


class Ask(NamedTuple):
    """A call that has to be answered during a flood."""

    name: str
    path: str
    message: bytes
    metadata: tuple[tuple[str, str], ...] = ()


def measure(scale: float) -> list[Figure]:
    """Measures on a process for each flood."""
    streams = round(STREAMS * scale)
    rng = random.Random(1)
    with open_stage() as stage:
        key = stage.create_site("streams")
        health = Ask("a health check", _CHECK, health_pb2.HealthCheckRequest().SerializeToString())
        [event] = requests_of(1, 1, rng)
        batch = Ask("a batch with a key", _INGEST_BATCH, event, (("x-write-key", key),))
        bearer = (("authorization", f"Bearer {stage.connection.admin_key}"),)
        status = Ask("an admin call", _GET_STATUS, b"", bearer)
        found = []
        for service, path, asks in (
            ("ingest", _INGEST_STREAM, (health, batch)),
            ("ingest", _WATCH, (health, batch)),
            ("admin", _WATCH, (health, status)),
        ):
            with stage.another(service) as (connection, _):
                found += asyncio.run(_beside(getattr(connection, service), service, path, streams, asks))
        return found + _flood(stage, key, max(10, round(CALLS * scale)), rng)


async def _beside(address: str, service: str, path: str, streams: int, asks: Sequence[Ask]) -> list[Figure]:
    found = []
    flood = f"{streams:,} × {service} {path.rpartition('/')[2]}"
    async with _connected(address, 1) as [asker], _connected(address, -(-streams // _STREAMS_A_CONNECTION)) as flooders:
        opened = [_open(flooders[number // _STREAMS_A_CONNECTION], path) for number in range(streams)]
        # They reach the server while the loop waits.
        await asyncio.sleep(_OPENING_SECONDS)
        for ask in asks:
            answered, slowest, refused = 0, 0.0, Counter[Refusal]()
            for _ in range(_ASKED):
                began = time.perf_counter()
                try:
                    call = asker.unary_unary(ask.path, None, None)
                    await call(ask.message, metadata=ask.metadata, timeout=_ASK_SECONDS)
                    answered += 1
                except grpc.aio.AioRpcError as error:
                    refused[refusal_of(error)] += 1
                slowest = max(slowest, (time.perf_counter() - began) * 1e3)
            told = ", ".join(f"{number} × {refusal}" for refusal, number in refused.items()) or "all answered"
            say(f"{PART}: {flood}: {ask.name}: {told}")
            share = 100 * answered / _ASKED
            found.append(Figure(PART, f"{flood}: {ask.name}, answered", share, "%", 100.0))
            found.append(Figure(PART, f"{flood}: {ask.name}, slowest", slowest, "ms", SLOWEST_MS, at_least=False))
        for stream in opened:
            stream.cancel()
    return found


def _open(channel: grpc.aio.Channel, path: str) -> Any:
    """Opens a stream and sends nothing on it, or the request that a Watch needs."""
    if path == _WATCH:
        return channel.unary_stream(path, None, None)(b"")
    return channel.stream_stream(path, None, None)(None)


def _flood(stage: Stage, key: str, calls: int, rng: random.Random) -> list[Figure]:
    requests = requests_of(calls, _EVENTS_A_CALL, rng)
    with stage.another("ingest") as (connection, _), _events_locked(stage):
        told, seconds = asyncio.run(_at_once(connection.ingest, key, requests))
    for refusal, number in told.items():
        say(f"{PART}: {calls:,} calls at once: {number} × {refusal or 'answered'}")
    refused = Counter({refusal: number for refusal, number in told.items() if refusal is not None})
    nameless = sum(number for refusal, number in refused.items() if not refusal.has_known_reason)
    flood = f"{calls:,} calls with a key at once"
    return [
        Figure(PART, f"{flood}: refused without a reason", nameless, "calls", 0.0, at_least=False),
        Figure(PART, f"{flood}: refused with one", refused.total() - nameless, "calls"),
        Figure(PART, f"{flood}: answered", told[None], "calls"),
        Figure(PART, f"{flood}: all together", seconds, "s"),
    ]


@contextmanager
def _events_locked(stage: Stage) -> Iterator[None]:
    """Keeps every transaction of ingest waiting for some seconds, so that all calls are under way at the same time."""
    with psycopg.connect(stage.database_url) as holder:
        holder.execute("LOCK TABLE events IN SHARE ROW EXCLUSIVE MODE")
        release = threading.Timer(_HELD_SECONDS, holder.rollback)
        release.start()
        try:
            yield
        finally:
            release.join()


async def _at_once(address: str, key: str, requests: Sequence[bytes]) -> tuple[Counter[Refusal | None], float]:
    """What each call was told (None: answered), and how many seconds all took."""
    told: Counter[Refusal | None] = Counter()
    async with _connected(address, -(-len(requests) // _STREAMS_A_CONNECTION)) as channels:

        async def send(number: int, request: bytes) -> None:
            call = channels[number // _STREAMS_A_CONNECTION].unary_unary(_INGEST_BATCH, None, None)
            try:
                await call(request, metadata=(("x-write-key", key),), timeout=_FLOOD_SECONDS)
                told[None] += 1
            except grpc.aio.AioRpcError as error:
                told[refusal_of(error)] += 1

        began = time.perf_counter()
        await asyncio.gather(*(send(number, request) for number, request in enumerate(requests)))
        return told, time.perf_counter() - began


@asynccontextmanager
async def _connected(address: str, number: int) -> AsyncIterator[list[grpc.aio.Channel]]:
    """Channels with a connection each."""
    channels = [grpc.aio.insecure_channel(address, options=OWN_CONNECTION) for _ in range(number)]
    try:
        await asyncio.gather(*(channel.channel_ready() for channel in channels))
        yield channels
    finally:
        await asyncio.gather(*(channel.close(None) for channel in channels))


if __name__ == "__main__":
    main(__doc__, measure)
