"""A site's rate: exact delays, a second's events at once, and no memory of sites that send nothing."""

import asyncio
from dataclasses import dataclass

import grpc
import pytest

from common.errors import CallError, Reason
from common.sites import Site
from ingest_svc.rate_limit import RateLimits
from tests.support.made_sites import made_site

MS = 1_000_000
SECOND = 1000 * MS


@dataclass
class Clock:
    """A clock in ns that the test sets."""

    now: int = 10**18

    def __call__(self) -> int:
        return self.now


def limited(rate: int, site_id: int = 1) -> Site:
    return made_site(site_id, max_events_per_second=rate)


def test_a_second_of_events_passes_at_once_and_then_one_in_each_part_of_a_second() -> None:
    clock = Clock()
    limits, site = RateLimits(clock), limited(10)
    assert [limits.delay(site, 1) for _ in range(10)] == [0] * 10
    assert limits.delay(site, 1) == 100 * MS
    clock.now += 100 * MS - 1
    assert limits.delay(site, 1) == 1
    clock.now += 1
    assert limits.delay(site, 1) == 0
    assert limits.delay(site, 2) == 200 * MS


def test_after_the_delay_that_was_told_a_call_passes_at_any_rate() -> None:
    """Rounding never makes it a nanosecond too early."""
    for rate in (1, 3, 7, 11, 999, 999_999, 1_000_000):
        clock = Clock()
        limits, site = RateLimits(clock), limited(rate)
        assert limits.delay(site, rate) == 0
        for events in (1, 2, rate // 2 + 1, rate, rate + 1, 10 * rate):
            clock.now += limits.delay(site, events)
            assert limits.delay(site, events) == 0, (rate, events)


def test_no_second_lets_more_pass_than_a_full_bucket_and_the_rate() -> None:
    clock = Clock()
    limits, site = RateLimits(clock), limited(50)
    passed = 0
    for _ in range(1000):
        clock.now += 10 * MS
        passed += sum(7 for _ in range(5) if limits.delay(site, 7) == 0)
    assert 50 * 10 - 7 <= passed <= 50 + 50 * 10


def test_a_call_larger_than_the_bucket_passes_when_it_is_full_and_is_paid_for_afterwards() -> None:
    clock = Clock()
    limits, site = RateLimits(clock), limited(10)
    assert limits.delay(site, 1) == 0
    assert limits.delay(site, 500) == 100 * MS
    clock.now += 100 * MS
    assert limits.delay(site, 500) == 0
    assert limits.delay(site, 1) == 49 * SECOND + 100 * MS
    assert limits.delay(site, 500) == 50 * SECOND


def test_no_limit_and_no_events_pass() -> None:
    limits = RateLimits(Clock())
    assert [limits.delay(limited(0), 10_000) for _ in range(3)] == [0] * 3
    assert limits.delay(limited(1), 1) == 0
    assert limits.delay(limited(1), 0) == 0


def test_sites_do_not_share_a_bucket() -> None:
    limits = RateLimits(Clock())
    assert limits.delay(limited(1, 1), 1) == limits.delay(limited(1, 2), 1) == 0
    assert limits.delay(limited(1, 1), 1) == SECOND


def test_a_new_rate_counts_at_once_and_what_was_owed_stays_owed() -> None:
    limits = RateLimits(Clock())
    assert limits.delay(limited(1), 60) == 0
    assert limits.delay(limited(1), 1) == 60 * SECOND
    assert limits.delay(limited(60), 60) == SECOND
    assert limits.delay(limited(1), 1) == 60 * SECOND
    assert limits.delay(limited(0), 1) == 0


def test_what_was_taken_and_then_refused_is_given_back() -> None:
    limits, site = RateLimits(Clock()), limited(10)
    assert limits.delay(site, 10) == 0
    limits.give_back(site, 10)
    assert limits.delay(site, 10) == 0
    assert limits.delay(site, 1) > 0


def test_a_refusal_says_rate_and_delay_in_whole_milliseconds_rounded_up() -> None:
    limits, site = RateLimits(Clock()), limited(3)
    limits.check(site, 3)
    with pytest.raises(CallError) as refused:
        limits.check(site, 1)
    error = refused.value
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.RATE_LIMITED)
    assert error.retry_after_ms == 334
    assert "3 events a second" in error.message


def test_full_buckets_are_dropped_and_others_are_not() -> None:
    """Many sites that sent once do not stay in memory; a site that owes events does, and so does a waiting stream."""

    async def run() -> None:
        clock = Clock()
        limits = RateLimits(clock)
        assert limits.delay(limited(1, 0), 20_000) == 0
        async with limits.turn(limited(1, 1)):
            for number in range(2, 10_000):
                clock.now += SECOND
                assert limits.delay(limited(1, number), 1) == 0
                assert len(limits) <= 2_000
            assert limits.delay(limited(1, 0), 20_000) > 0
            assert limits.turn(limited(1, 1)).locked()

    asyncio.run(run())
