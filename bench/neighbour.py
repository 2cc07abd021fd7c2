"""A caller who does nothing wrong: one event a call, one call after the other, and what becomes of it meanwhile."""

import itertools
import random
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc

from bench.events import batch
from bench.refusals import Refusal, refusal_of

_PAUSE_SECONDS = 0.02
_TIMEOUT_SECONDS = 60.0
_GRACE_SECONDS = 60.0
_PATH = "/footfall.ingest.v1.IngestService/IngestBatch"
# Channels to one address share a connection otherwise, and would wait for each other's bytes.
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


@dataclass
class Neighbour:
    """The answers to the calls of one caller."""

    latencies: list[float] = field(default_factory=list)
    """Seconds of each call, answered or refused."""
    refused: Counter[Refusal] = field(default_factory=Counter)

    @property
    def longest(self) -> float:
        """The longest call, in ms."""
        return max(self.latencies) * 1e3

    @property
    def median(self) -> float:
        """The median of the calls, in ms."""
        return statistics.median(self.latencies) * 1e3

    def percentile(self, percent: int) -> float:
        """The percentile of the calls, in ms."""
        return statistics.quantiles(self.latencies, n=100, method="inclusive")[percent - 1] * 1e3

    @property
    def share_refused(self) -> float:
        """The part of the calls that were refused, in %."""
        return 100 * self.refused.total() / len(self.latencies)


@contextmanager
def neighbour(address: str, keys: Sequence[str]) -> Iterator[Neighbour]:
    """Sends events to ingest while the block runs, with the keys in turn. The last call is answered before it ends."""
    found, stopping, ready = Neighbour(), threading.Event(), threading.Event()

    def run() -> None:
        rng = random.Random(5)
        with grpc.insecure_channel(address, options=OWN_CONNECTION) as channel:
            call = channel.unary_unary(_PATH, None, None)
            for key in itertools.cycle(keys):
                request = batch(1, rng).SerializeToString()
                began = time.perf_counter()
                try:
                    call(request, metadata=(("x-write-key", key),), timeout=_TIMEOUT_SECONDS)
                except grpc.RpcError as error:
                    found.refused[refusal_of(error)] += 1
                found.latencies.append(time.perf_counter() - began)
                ready.set()
                if stopping.wait(_PAUSE_SECONDS):
                    return

    thread = threading.Thread(target=run)
    thread.start()
    ready.wait(_TIMEOUT_SECONDS)
    # The first call opens the connection.
    found.latencies.clear()
    try:
        yield found
    finally:
        stopping.set()
        thread.join()
        if not found.latencies:
            raise RuntimeError("the block ended before a call was made")


def beside_flood(
    address: str, keys: Sequence[str], flood: str, seconds: float
) -> tuple[Neighbour, Neighbour, list[str]]:
    """A neighbour alone, a neighbour beside a flood of `seconds`, and the lines that the flood printed.

    `flood` is Python code. It runs in a process of its own, so that it does not take the neighbour's time in the
    interpreter, and prints a first line when it begins, which is not among those returned.
    """
    with neighbour(address, keys) as alone:
        time.sleep(seconds / 2)
    process = subprocess.Popen([sys.executable, "-c", flood], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        with neighbour(address, keys) as beside:
            told, _ = process.communicate(timeout=seconds + _GRACE_SECONDS)
    finally:
        process.kill()
        process.wait()
    return alone, beside, told.splitlines()
