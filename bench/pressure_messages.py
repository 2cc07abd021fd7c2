"""What one message without a key costs a service: memory, CPU, and the time that other callers wait.

    python -m bench.pressure_messages [--scale 0.1] [--json FILE]

The message holds sixteen million empty elements of a repeated field, two bytes each. It goes to IngestBatch and to
GetDashboard. Three at once are sent only if one took less than a gigabyte.
"""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import psutil  # type: ignore[import-untyped]  # carries no type information
from footfall.ingest.v1 import ingest_pb2
from footfall.query.v1 import query_pb2

from bench.command_line import main, say
from bench.figures import Figure
from bench.neighbour import OWN_CONNECTION, neighbour
from bench.own_suite import MEGABYTE, Stage, open_stage, peak_memory
from bench.refusals import refusal_of

PART = "keyless messages"
GROWTH_OVER_BYTES = 3.0
GROWTH_BESIDE = 10.0
"""The MB that a process gains by its first calls, whatever they hold."""
STALL_MS = 500.0
SMALL_CALL_MS = 1.0

_ELEMENTS = 16_000_000
_AT_ONCE = 3
_DANGEROUS_MEGABYTES = 1_000.0
_SMALL_CALLS = 4_000
_CALLERS = 32
_SETTLE_SECONDS = 1.0
_TIMEOUT_SECONDS = 120.0
_INGEST = "/footfall.ingest.v1.IngestService/IngestBatch"
_QUERY = "/footfall.query.v1.QueryService/GetDashboard"
_LENGTH_DELIMITED = 2


def measure(scale: float) -> list[Figure]:
    """Measures on processes that did nothing before."""
    with open_stage() as stage:
        key = stage.create_site("quiet")
        ingest = _empty_elements(ingest_pb2.IngestBatchRequest.DESCRIPTOR.fields_by_name["events"].number, scale)
        dashboard = _empty_elements(query_pb2.GetDashboardRequest.DESCRIPTOR.fields_by_name["tops"].number, scale)
        return [
            *_large(stage, key, "ingest", _INGEST, ingest),
            *_large(stage, key, "query", _QUERY, dashboard),
            *_small(stage, "ingest", _INGEST, scale),
            *_small(stage, "query", _QUERY, scale),
        ]


def _empty_elements(field_number: int, scale: float) -> bytes:
    return bytes((field_number << 3 | _LENGTH_DELIMITED, 0)) * round(_ELEMENTS * scale)


def _large(stage: Stage, key: str, service: str, path: str, message: bytes) -> list[Figure]:
    found = []
    for at_once in (1, _AT_ONCE):
        with stage.another(service) as (connection, pid):
            before = psutil.Process(pid).memory_info().rss / MEGABYTE
            waiting = connection.ingest if service == "ingest" else ""
            with peak_memory([pid]) as peaks, _stall(waiting, key) as stalls:
                cpu = _cpu_seconds(pid)
                answers = _send(getattr(connection, service), path, message, at_once)
                time.sleep(_SETTLE_SECONDS)
                cpu = _cpu_seconds(pid) - cpu
            growth = peaks[0] - before
        name = f"{service}, {at_once} of {len(message) / MEGABYTE:.0f} MB"
        say(f"{PART}: {name}: {growth:,.0f} MB, {cpu:.2f} s of CPU; {', '.join(sorted(set(answers)))}")
        limit = GROWTH_BESIDE + GROWTH_OVER_BYTES * at_once * len(message) / MEGABYTE
        found.append(Figure(PART, f"{name}: growth of the process", growth, "MB", limit, at_least=False))
        found.append(Figure(PART, f"{name}: CPU", cpu * 1e3, "ms"))
        if stalls:
            stalled = Figure(PART, f"{name}: longest call of another", stalls[0], "ms", STALL_MS, at_least=False)
            found.append(stalled)
        if at_once == 1 and growth > _DANGEROUS_MEGABYTES:
            say(f"{PART}: {_AT_ONCE} at once are left out, because one took over {_DANGEROUS_MEGABYTES:,.0f} MB")
            break
    return found


@contextmanager
def _stall(address: str, key: str) -> Iterator[list[float]]:
    """The longest call of another caller while the block runs, in ms, once it has ended; empty without an address."""
    stalls: list[float] = []
    if not address:
        yield stalls
        return
    with neighbour(address, [key]) as found:
        yield stalls
    stalls.append(found.longest)


def _send(address: str, path: str, message: bytes, at_once: int) -> list[str]:
    """Sends the message over connections of their own. Returns what the senders were told."""
    answers: list[str] = []

    def send() -> None:
        with grpc.insecure_channel(address, options=[*OWN_CONNECTION, ("grpc.max_send_message_length", -1)]) as channel:
            try:
                channel.unary_unary(path, None, None)(message, timeout=_TIMEOUT_SECONDS)
                answers.append("answered")
            except grpc.RpcError as error:
                answers.append(str(refusal_of(error)))

    senders = [threading.Thread(target=send) for _ in range(at_once)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    return answers


def _small(stage: Stage, service: str, path: str, scale: float) -> list[Figure]:
    """Calls of a few bytes, without a key."""
    calls = max(100, round(_SMALL_CALLS * scale))
    with stage.another(service) as (connection, pid):
        address = getattr(connection, service)
        asyncio.run(_refused_calls(address, path, calls // 10))
        before, cpu = psutil.Process(pid).memory_info().rss, _cpu_seconds(pid)
        asyncio.run(_refused_calls(address, path, calls))
        spent = (_cpu_seconds(pid) - cpu) / calls * 1e3
        growth = (psutil.Process(pid).memory_info().rss - before) / MEGABYTE
    return [
        Figure(PART, f"{service}, small call: CPU", spent, "ms", SMALL_CALL_MS, at_least=False),
        Figure(PART, f"{service}, {calls:,} small calls: growth of the process", growth, "MB"),
    ]


async def _refused_calls(address: str, path: str, calls: int) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary(path, None, None)
        numbers = iter(range(calls))

        async def caller() -> None:
            for _ in numbers:
                try:
                    await call(b"", timeout=_TIMEOUT_SECONDS)
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
                        raise

        await asyncio.gather(*(caller() for _ in range(_CALLERS)))


def _cpu_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main(__doc__, measure)
