"""How long one site's single events wait, and how many are refused, while another site floods ingest.

    python -m bench.pressure_flood [--scale 0.1] [--json FILE]

The flood are full batches from so many callers that their events overfill the queue; they do not obey RetryInfo. All
figures stand beside those of the same neighbour without a flood.
"""

import asyncio
import itertools
import random
import time
from collections import Counter

import grpc

from bench.command_line import main, say
from bench.figures import Figure
from bench.ingest import requests_of
from bench.neighbour import beside_flood
from bench.own_suite import open_stage
from bench.refusals import Refusal, refusal_of

PART = "flood of one site"
P99_MS = 500.0

_SECONDS = 10.0
_CALLERS = 100
_EVENTS_A_CALL = 500
_BATCHES = 100
_GRACE_SECONDS = 60.0
_PATH = "/footfall.ingest.v1.IngestService/IngestBatch"


def measure(scale: float) -> list[Figure]:
    """Measures on a suite of its own. `scale` shortens the flood."""
    seconds = max(2.0, _SECONDS * scale)
    with open_stage() as stage:
        loud, quiet = stage.create_site("loud"), stage.create_site("quiet")
        address = stage.connection.ingest
        code = f"from bench.pressure_flood import flood; flood({address!r}, {loud!r}, {seconds!r})"
        alone, beside, told = beside_flood(address, [quiet], code, seconds)
    for line in told:
        say(f"{PART}: the flood: {line}")
    for refusal, number in beside.refused.items():
        say(f"{PART}: the other site: {number} × {refusal}")
    return [
        Figure(PART, "calls of another site that are refused", beside.share_refused, "%", 0.0, at_least=False),
        Figure(PART, "p99 of its calls", beside.percentile(99), "ms", P99_MS, at_least=False),
        Figure(PART, "longest of its calls", beside.longest, "ms"),
        Figure(PART, "median of its calls", beside.median, "ms"),
        Figure(PART, "median without a flood", alone.median, "ms"),
        Figure(PART, "p99 without a flood", alone.percentile(99), "ms"),
    ]


def flood(address: str, key: str, seconds: float) -> None:
    """Sends batches for `seconds`. Each caller sends the next when it is answered, whatever the answer is.

    Prints a line when it begins, and at the end what the callers were told.
    """
    told = asyncio.run(_flood(address, key, requests_of(_BATCHES, _EVENTS_A_CALL, random.Random(1)), seconds))
    for refusal, number in told.items():
        print(f"{number:,} calls: {refusal or 'answered'}")


async def _flood(address: str, key: str, requests: list[bytes], seconds: float) -> Counter[Refusal | None]:
    told: Counter[Refusal | None] = Counter()
    # After the first round they are repeats, which take room in the queue as others do.
    endless = itertools.cycle(requests)
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary(_PATH, None, None)
        print("begins", flush=True)
        until = time.monotonic() + seconds

        async def caller() -> None:
            while time.monotonic() < until:
                try:
                    await call(next(endless), metadata=(("x-write-key", key),), timeout=_GRACE_SECONDS)
                    told[None] += 1
                except grpc.aio.AioRpcError as error:
                    told[refusal_of(error)] += 1

        await asyncio.gather(*(caller() for _ in range(_CALLERS)))
    return told


if __name__ == "__main__":
    main(__doc__, measure)
