"""How many events a second each site may send to this process: `max_events_per_second`. No I/O.

The generic cell rate algorithm (ITU-T I.371, virtual scheduling), which is a token bucket kept as one time: the bucket
of a site is full at `full_at`, and each event puts that off by a second / rate. A bucket holds a second's events.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc

from common.errors import CallError, Reason
from common.sites import Site

_SECOND = 1_000_000_000
_SWEPT_AT_LEAST = 1_000
"""From how many buckets on the full ones are dropped."""


@dataclass(slots=True)
class _Bucket:
    rate: int
    """Events a second."""
    full_at: int
    """In ns of the clock; in the past = it is full."""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class RateLimits:
    """One bucket for each site with a limit. A full bucket says nothing and is dropped sooner or later."""

    def __init__(self, nanoseconds: Callable[[], int]) -> None:
        """`nanoseconds` is a clock that never goes back."""
        self._now = nanoseconds
        self._buckets: dict[int, _Bucket] = {}
        self._sweep_at = _SWEPT_AT_LEAST

    def __len__(self) -> int:
        """How many buckets are kept."""
        return len(self._buckets)

    def delay(self, site: Site, events: int) -> int:
        """Takes the events out of the site's bucket and returns 0, or takes nothing and returns in how many ns the
        bucket will hold them.

        Of a call with more events than a bucket holds, the bucket must be full, and it owes the others afterwards.
        """
        rate = site.max_events_per_second
        if not (rate and events):
            return 0
        now = self._now()
        bucket = self._bucket(site, now)
        cost = -(-events * _SECOND // rate)
        wait = bucket.full_at - now - max(0, _SECOND - cost)
        if wait > 0:
            return wait
        bucket.full_at = max(bucket.full_at, now) + cost
        return 0

    def check(self, site: Site, events: int) -> None:
        """Takes the events out of the site's bucket. Raises CallError (RATE_LIMITED) if it does not hold them."""
        wait = self.delay(site, events)
        if wait:
            raise CallError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                Reason.RATE_LIMITED,
                f"the site takes {site.max_events_per_second} events a second (max_events_per_second); nothing of this "
                "call was stored, send it again after the delay",
                retry_after_ms=-(-wait // 1_000_000),
            )

    def give_back(self, site: Site, events: int) -> None:
        """Puts events that were taken and then refused back into the bucket."""
        bucket = self._buckets.get(site.site_id)
        if bucket is not None:
            bucket.full_at -= -(-events * _SECOND // bucket.rate)

    def turn(self, site: Site) -> asyncio.Lock:
        """Held by the one stream of the site that waits until its events may be taken; the others wait for it."""
        return self._bucket(site, self._now()).turn

    def _bucket(self, site: Site, now: int) -> _Bucket:
        rate = site.max_events_per_second
        bucket = self._buckets.get(site.site_id)
        if bucket is None:
            if len(self._buckets) >= self._sweep_at:
                self._sweep(now)
            bucket = self._buckets[site.site_id] = _Bucket(rate, now)
        elif bucket.rate != rate:
            # What the bucket lacks are events. How long they take to come back depends on the rate.
            bucket.full_at = now + max(0, bucket.full_at - now) * bucket.rate // rate
            bucket.rate = rate
        return bucket

    def _sweep(self, now: int) -> None:
        for site_id, bucket in [*self._buckets.items()]:
            if bucket.full_at <= now and not bucket.turn.locked():
                del self._buckets[site_id]
        # Each sweep costs as much as the buckets that were made since the last one.
        self._sweep_at = max(_SWEPT_AT_LEAST, 2 * len(self._buckets))
