"""Metrics of connection pools."""

import time
from collections.abc import Callable
from typing import TypeVar

from prometheus_client import Histogram

Taken = TypeVar("Taken")

_WAITS = Histogram(
    "footfall_pool_wait_seconds",
    "From asking a pool for a connection until it is there, opened and tested, or until the pool gives up",
    ("pool",),
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)


def waited(pool: str, take: Callable[[], Taken]) -> Taken:
    """What `take` returns; the time that it takes, or takes to raise, is a wait of that pool."""
    began = time.perf_counter()
    try:
        return take()
    finally:
        _WAITS.labels(pool).observe(time.perf_counter() - began)
