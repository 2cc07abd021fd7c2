"""How long calls with known keys wait while thousands of calls a second come with unknown ones.

    python -m bench.pressure_keys [--scale 0.1] [--json FILE]

Every unknown key is another one, so none is answered from a cache. The known keys are those of a hundred sites, in
turn, so that a part of them has to be looked up again at any time. All stands beside the same without a flood.
"""

import asyncio
import secrets
import time
from collections import Counter

import grpc

from bench.command_line import main, say
from bench.figures import Figure
from bench.neighbour import beside_flood
from bench.own_suite import open_stage
from bench.refusals import Refusal, refusal_of

PART = "unknown keys"
LONGEST_MS = 500.0

_SITES = 100
_SECONDS = 10.0
_CALLERS = 500
_GRACE_SECONDS = 60.0
_PATH = "/footfall.ingest.v1.IngestService/IngestBatch"


def measure(scale: float) -> list[Figure]:
    """Measures on a suite of its own. `scale` shortens the flood."""
    seconds = max(2.0, _SECONDS * scale)
    with open_stage() as stage:
        keys = stage.create_sites([f"known-{number:03d}" for number in range(_SITES)])
        address = stage.connection.ingest
        code = f"from bench.pressure_keys import flood; flood({address!r}, {seconds!r})"
        alone, beside, told = beside_flood(address, keys, code, seconds)
    calls = 0
    for line in told:
        say(f"{PART}: the flood: {line}")
        calls += int(line.partition(" ")[0])
    for refusal, number in beside.refused.items():
        say(f"{PART}: known keys: {number} × {refusal}")
    return [
        Figure(PART, "longest call with a known key", beside.longest, "ms", LONGEST_MS, at_least=False),
        Figure(PART, "p99 of these calls", beside.percentile(99), "ms"),
        Figure(PART, "median of these calls", beside.median, "ms"),
        Figure(PART, "these calls that were refused", beside.share_refused, "%", 0.0, at_least=False),
        Figure(PART, "longest without a flood", alone.longest, "ms"),
        Figure(PART, "median without a flood", alone.median, "ms"),
        Figure(PART, "calls with an unknown key", calls / seconds, "calls/s"),
    ]


def flood(address: str, seconds: float) -> None:
    """Sends calls with unknown keys for `seconds`. Prints a line when it begins, and at the end what they were told."""
    for refusal, number in asyncio.run(_flood(address, seconds)).items():
        print(f"{number} calls: {refusal}")


async def _flood(address: str, seconds: float) -> Counter[Refusal]:
    told: Counter[Refusal] = Counter()
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary(_PATH, None, None)
        print("begins", flush=True)
        until = time.monotonic() + seconds

        async def caller() -> None:
            while time.monotonic() < until:
                metadata = (("x-write-key", "fw_" + secrets.token_urlsafe(32)),)
                try:
                    await call(b"", metadata=metadata, timeout=_GRACE_SECONDS)
                except grpc.aio.AioRpcError as error:
                    told[refusal_of(error)] += 1

        await asyncio.gather(*(caller() for _ in range(_CALLERS)))
    return told


if __name__ == "__main__":
    main(__doc__, measure)
