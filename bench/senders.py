"""Sends encoded batches: from many callers at once, over open streams, or at a fixed rate."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from footfall.ingest.v1 import ingest_pb2

_SERVICE = "/footfall.ingest.v1.IngestService/"
_IN_FLIGHT = 8
"""How many unanswered requests a stream has at most."""

Channel = grpc.aio.Channel


@dataclass
class Sent:
    """The answers to a load."""

    seconds: float = 0.0
    accepted: int = 0
    duplicate: int = 0
    refused: int = 0
    """Calls that were answered with an error."""
    latencies: list[float] = field(default_factory=list)
    """Seconds of each answered call."""

    @property
    def rate(self) -> float:
        """Events a second that were acknowledged."""
        return (self.accepted + self.duplicate) / self.seconds

    def percentile(self, percent: int) -> float:
        """The percentile of the latencies, in ms."""
        return statistics.quantiles(self.latencies, n=100)[percent - 1] * 1e3

    def count(self, answer: Any, began: float) -> None:
        """Adds an answer to a request that was sent at `began`."""
        assert answer.rejected == 0, answer.errors[0]
        self.latencies.append(time.perf_counter() - began)
        self.accepted += answer.accepted
        self.duplicate += answer.duplicate


def call_all(address: str, key: str, requests: Sequence[bytes], callers: int) -> Sent:
    """Sends the requests by IngestBatch from `callers` callers. Each waits for its answer before it sends the next."""
    return asyncio.run(_call_all(address, key, requests, callers))


def stream_all(address: str, key: str, requests: Sequence[bytes], streams: int) -> Sent:
    """Sends the requests over `streams` open IngestStreams, a few ahead of the answers."""
    return asyncio.run(_stream_all(address, key, requests, streams))


def offer(address: str, key: str, requests: Sequence[bytes], calls_a_second: float) -> Sent:
    """Sends the requests by IngestBatch at a fixed rate, whether or not earlier ones are answered."""
    return offer_each(address, [key] * len(requests), requests, calls_a_second)


def offer_each(address: str, keys: Sequence[str], requests: Sequence[bytes], calls_a_second: float) -> Sent:
    """As `offer`, each request with a key of its own."""
    return asyncio.run(_offer(address, keys, requests, calls_a_second))


async def _call_all(address: str, key: str, requests: Sequence[bytes], callers: int) -> Sent:
    async with _open(address, key) as (channel, metadata):
        call = _unary(channel)
        sent, queue = Sent(), iter(requests)

        async def caller() -> None:
            for request in queue:
                began = time.perf_counter()
                sent.count(await call(request, metadata=metadata), began)

        began = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(callers)))
        sent.seconds = time.perf_counter() - began
        return sent


async def _stream_all(address: str, key: str, requests: Sequence[bytes], streams: int) -> Sent:
    async with _open(address, key) as (channel, metadata):
        call: Any = channel.stream_stream(
            f"{_SERVICE}IngestStream", lambda data: data, ingest_pb2.IngestStreamResponse.FromString
        )
        sent, queue = Sent(), iter(requests)

        async def stream(queue: Iterator[bytes]) -> None:
            session = call(metadata=metadata)
            times: asyncio.Queue[float] = asyncio.Queue()
            room = asyncio.Semaphore(_IN_FLIGHT)

            async def write() -> None:
                for request in queue:
                    await room.acquire()
                    times.put_nowait(time.perf_counter())
                    await session.write(request)
                await session.done_writing()

            writer = asyncio.create_task(write())
            async for answer in session:
                sent.count(answer, times.get_nowait())
                room.release()
            await writer

        began = time.perf_counter()
        await asyncio.gather(*(stream(queue) for _ in range(streams)))
        sent.seconds = time.perf_counter() - began
        return sent


async def _offer(address: str, keys: Sequence[str], requests: Sequence[bytes], calls_a_second: float) -> Sent:
    async with _open(address, keys[0]) as (channel, _):
        call = _unary(channel)
        sent = Sent()

        async def send(key: str, request: bytes, due: float) -> None:
            try:
                # The latency begins when the request was due, so that it includes the time by which the sender is late.
                sent.count(await call(request, metadata=(("x-write-key", key),)), due)
            except grpc.aio.AioRpcError:
                sent.refused += 1

        began = time.perf_counter()
        tasks = []
        for number, (key, request) in enumerate(zip(keys, requests, strict=True)):
            due = began + number / calls_a_second
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            tasks.append(asyncio.create_task(send(key, request, due)))
        await asyncio.gather(*tasks)
        sent.seconds = time.perf_counter() - began
        return sent


@asynccontextmanager
async def _open(address: str, key: str) -> AsyncIterator[tuple[Channel, Any]]:
    """A connected channel, and the metadata of a key that the server has cached."""
    metadata = (("x-write-key", key),)
    async with grpc.aio.insecure_channel(address) as channel:
        await _unary(channel)(b"", metadata=metadata)
        yield channel, metadata


def _unary(channel: Channel) -> Any:
    return channel.unary_unary(f"{_SERVICE}IngestBatch", lambda data: data, ingest_pb2.IngestBatchResponse.FromString)
