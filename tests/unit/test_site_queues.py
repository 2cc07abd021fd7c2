"""What a site may have waiting, and whose turn it is."""

import asyncio
import random
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from ingest_svc.event_rows import Row
from ingest_svc.site_queues import QUANTUM, SiteQueues, Waiting
from ingest_svc.store_events import Incoming
from tests.support.made_sites import made_site

NOW = datetime(2024, 1, 1, tzinfo=UTC)
BYTES = 2**30


@pytest.fixture(autouse=True)
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop for the futures of calls; it never runs."""
    made = asyncio.new_event_loop()
    asyncio.set_event_loop(made)
    yield made
    asyncio.set_event_loop(None)
    made.close()


def call(site_id: int, events: int = 1, size: int = 1) -> Waiting:
    rows = [Row(0, None, b"")] * events
    return Waiting(Incoming(made_site(site_id), rows, NOW), size, asyncio.get_event_loop().create_future())


def future() -> "asyncio.Future[None]":
    return asyncio.get_event_loop().create_future()


def fill(queues: SiteQueues, site_id: int, events: int = 1, size: int = 1) -> int:
    """Puts calls of the site until there is no room; how many that were."""
    put = 0
    while queues.has_room(one := call(site_id, events, size)):
        queues.put(one)
        put += 1
    return put


def sites(group: list[Waiting]) -> list[int]:
    return [waiting.call.site.site_id for waiting in group]


def test_a_flood_gets_half_and_the_next_ones_half_of_what_is_left() -> None:
    queues = SiteQueues(1024, BYTES)
    assert [fill(queues, site_id) for site_id in range(8)] == [512, 256, 128, 64, 32, 16, 8, 4]
    assert queues.has_room(call(99))


def test_the_share_is_one_of_bytes_too() -> None:
    queues = SiteQueues(10**6, 1000)
    assert fill(queues, 1, size=100) == 5
    assert queues.has_room(call(2, size=500))
    assert not queues.has_room(call(2, size=501))


def test_what_is_being_committed_takes_room_until_it_is_answered() -> None:
    queues = SiteQueues(10, BYTES)
    assert fill(queues, 1) == 5
    group = queues.take(100)
    assert len(group) == 5
    assert not queues.has_room(call(1))
    queues.release(group[0])
    assert queues.has_room(call(1))


def test_an_empty_process_takes_a_call_of_any_size_and_no_other_beside_it() -> None:
    queues = SiteQueues(10, 10)
    large = call(1, events=1000, size=1000)
    assert queues.has_room(large)
    queues.put(large)
    assert not queues.has_room(call(2))
    assert queues.take(100) == [large]
    queues.release(large)
    assert queues.has_room(call(2, events=1000))


def test_a_single_event_is_in_the_next_group_however_many_sites_flood() -> None:
    queues = SiteQueues(10**6, BYTES)
    for site_id in range(100):
        for _ in range(20):
            queues.put(call(site_id, events=500))
    queues.take(5000)
    queues.put(call(1000))
    assert sites(queues.take(5000))[0] == 1000


def test_floods_share_by_events_and_not_by_calls() -> None:
    queues = SiteQueues(10**6, BYTES)
    for _ in range(40):
        queues.put(call(1, events=500))
    for _ in range(20_000):
        queues.put(call(2, events=1))
    stored: Counter[int] = Counter()
    for _ in range(6):
        for waiting in queues.take(3000):
            stored[waiting.call.site.site_id] += waiting.events
        assert abs(stored[1] - stored[2]) <= 2 * QUANTUM


def test_a_site_that_sends_one_event_after_the_other_is_not_always_first() -> None:
    queues = SiteQueues(10**6, BYTES)
    for _ in range(3 * QUANTUM):
        queues.put(call(1))
    queues.put(call(2))
    stored: Counter[int] = Counter()
    for _ in range(QUANTUM):
        [one] = queues.take(1)
        stored[one.call.site.site_id] += 1
        if one.call.site.site_id == 2:
            queues.put(call(2))
    assert stored[1] > QUANTUM // 3


def test_a_group_is_bounded_and_a_larger_call_is_alone_and_not_passed_over() -> None:
    queues = SiteQueues(10**6, BYTES)
    for events in (4, 11, 4):
        queues.put(call(1, events=events))
    for _ in range(20):
        queues.put(call(2))
    groups = [[waiting.events for waiting in queues.take(10)] for _ in range(3)]
    assert [4] in groups
    assert [11] in groups
    assert all(sum(group) <= 10 or len(group) == 1 for group in groups)


def test_calls_put_back_keep_their_order_and_come_next() -> None:
    queues = SiteQueues(10**6, BYTES)
    calls = [call(1), call(2), call(1), call(2)]
    for one in calls:
        queues.put(one)
    queues.put(call(3))
    group = queues.take(4)
    queues.put(call(4))
    queues.put_back(group)
    again = queues.take(4)
    assert [one for one in again if sites([one]) == [1]] == [calls[0], calls[2]]
    assert sorted(sites(again)) == sorted(sites(group))


def test_a_site_apart_is_taken_alone_until_it_rejoins() -> None:
    queues = SiteQueues(10**6, BYTES)
    for site_id in (1, 2, 1, 3):
        queues.put(call(site_id))
    queues.set_apart(1)
    queues.set_apart(3)
    queues.put(call(1))
    assert (queues.waiting_events, queues.apart_events) == (1, 4)
    assert sites(queues.take(100)) == [2]
    assert queues.take(100) == []
    assert sites(queues.take_apart(2)) == [1, 1]
    assert sites(queues.take_apart(2)) == [3]
    queues.rejoin(1)
    assert (queues.waiting_events, queues.apart_events) == (1, 0)
    assert sites(queues.take(100)) == [1]


def test_streams_are_let_in_first_come_first_served_within_their_site_only() -> None:
    queues = SiteQueues(20, BYTES)
    held = [call(1, events=5), call(1, events=5)]
    for one in held:
        queues.put(one)
    streams = [call(1, events=5), call(1, events=1), call(2, events=1)]
    let_in = [future() for _ in streams]
    for one, done in zip(streams, let_in, strict=True):
        queues.wait_for_room(one, done)
    queues.let_streams_in()
    assert [one.done() for one in let_in] == [False, False, True]
    assert queues.has_streams(1)
    assert not queues.has_streams(2)
    queues.take(100)
    queues.release(held[0])
    queues.let_streams_in()
    assert [one.done() for one in let_in] == [True, False, True]


def test_a_stream_that_goes_away_is_forgotten_and_the_next_is_let_in() -> None:
    queues = SiteQueues(10, BYTES)
    queues.put(call(1, events=5))
    gone, stays = future(), future()
    queues.wait_for_room(call(1, events=5), gone)
    queues.wait_for_room(call(1, events=1), stays)
    gone.cancel()
    queues.forget_gone_streams(1)
    [held] = queues.take(100)
    queues.release(held)
    queues.let_streams_in()
    assert stays.done()
    assert not queues.has_streams(1)


def test_a_refused_stream_raises_and_is_not_stored() -> None:
    queues = SiteQueues(2, BYTES)
    queues.put(call(1))
    let_in = future()
    queues.wait_for_room(call(1), let_in)
    queues.refuse_streams(ValueError("closing"))
    assert isinstance(let_in.exception(), ValueError)
    queues.let_streams_in()
    assert (queues.events, queues.has_streams(1)) == (1, False)


@pytest.mark.parametrize("seed", range(20))
def test_every_call_comes_out_once_in_its_sites_order_and_nothing_is_kept(seed: int) -> None:
    rng = random.Random(seed)
    queues, wanted = SiteQueues(300, 3000), defaultdict[int, deque[Waiting]](deque)
    under_way: list[list[Waiting]] = []

    def put(waiting: Waiting) -> None:
        wanted[waiting.call.site.site_id].append(waiting)

    def settle(group: list[Waiting]) -> None:
        for one in group:
            assert wanted[one.call.site.site_id].popleft() is one
            queues.release(one)
        queues.let_streams_in()

    for step in range(2000):
        one = call(rng.randrange(6), rng.choice([1, 1, 3, 40]), rng.choice([1, 50]))
        site_id = one.call.site.site_id
        choice = rng.randrange(8) if step < 1500 else 5
        if choice < 3 and queues.has_room(one) and not queues.has_streams(site_id):
            queues.put(one)
            put(one)
        elif choice == 3:
            queues.wait_for_room(one, future())
            put(one)
            queues.let_streams_in()
        elif choice == 4 and queues.events and wanted[site_id] and not queues.has_streams(site_id):
            queues.set_apart(site_id)
        elif choice >= 5 and not under_way:
            group = queues.take_apart(60) if queues.apart_events and rng.random() < 0.5 else queues.take(60)
            under_way += [group] if group else []
        elif under_way and rng.random() < 0.3:
            queues.put_back(under_way.pop())
        elif under_way:
            group = under_way.pop()
            if rng.random() < 0.5:
                for number in {*sites(group)}:
                    queues.rejoin(number)
            settle(group)
    for group in under_way:
        settle(group)
    while queues.events:
        settle(queues.take_apart(60) if queues.apart_events else queues.take(60))
    queues.take(60)
    assert not any(wanted.values())
    assert (len(queues), queues.size, queues.waiting_events, queues.apart_events) == (0, 0, 0, 0)
