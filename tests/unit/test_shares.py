"""Who works next, who waits, who is refused, and that a place is free only when its thread is."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from common.calls.shares import Bounds, Caller, Shares
from common.calls.stopping import Stop, Stopped, check_stop
from common.errors import CallError, Reason

BOUNDS = Bounds(at_once=4, site_at_once=2, key_at_once=3, site_waiting=3, key_waiting=5, all_waiting=7)


class Works:
    """Work that lasts until it is released, and in which order it began."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.release = threading.Semaphore(0)

    def named(self, name: str) -> Callable[[Stop], str]:
        def work(stop: Stop) -> str:
            self.began.append(name)
            assert self.release.acquire(timeout=20)
            return name

        return work


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


def begun(shares: Shares, works: Works, calls: str) -> list["asyncio.Task[str]"]:
    """A task for each call, such as "Ax Ay": site A with the keys x and y. "-" is no site."""
    return [
        asyncio.create_task(
            shares.run(Caller(call[0].replace("-", ""), ord(call[1])), None, works.named(call)), name=call
        )
        for call in calls.split()
    ]


@pytest.mark.parametrize(
    ("calls", "begin_at_once"),
    [
        pytest.param("Ax Ax Ax Ay Ay", "Ax Ax", id="a site"),
        pytest.param("Ax Bx Cx Dx", "Ax Bx Cx", id="a key of all sites"),
        pytest.param("-x -x -x -x -y", "-x -x -x -y", id="calls of no site"),
        pytest.param("Ax Ax Ax Bx By Bz Cz", "Ax Ax Bx By", id="all together"),
    ],
)
def test_no_more_work_at_once_than_the_shares_allow(calls: str, begin_at_once: str) -> None:
    """The others are done when there is room, each once."""

    async def run() -> None:
        shares, works = Shares("test", BOUNDS), Works()
        tasks = begun(shares, works, calls)
        await until(lambda: len(works.began) == len(begin_at_once.split()))
        assert sorted(works.began) == sorted(begin_at_once.split())
        works.release.release(len(tasks))
        assert await asyncio.gather(*tasks) == calls.split()
        assert sorted(works.began) == sorted(calls.split())

    asyncio.run(run())


def test_the_site_that_was_served_longest_ago_is_next() -> None:
    async def run() -> None:
        shares, works = Shares("test", BOUNDS._replace(at_once=1)), Works()
        tasks = begun(shares, works, "Ax Ax Ax Ay By Bx Cz")
        works.release.release(len(tasks))
        await asyncio.gather(*tasks)
        assert [call[0] for call in works.began] == ["A", "B", "C", "A", "B", "A", "A"]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("calls", "refused"),
    [
        pytest.param("Ax Ax Ax Ay Az Ax Bx", ["Ax"], id="of a site"),
        pytest.param("Ax Ax Bx Cx Dx Ex Fx Gx Hx Ay", ["Hx"], id="with a key"),
        pytest.param("Ax Ax Bx By Az Cz Dz Ez Fw Gw Hw Iw Jv Kv", ["Iw", "Jv", "Kv"], id="of the process"),
    ],
)
def test_the_bounds_of_the_queues_refuse_with_a_delay_and_lose_nothing_else(calls: str, refused: list[str]) -> None:
    async def run() -> None:
        shares, works = Shares("test", BOUNDS), Works()
        tasks = begun(shares, works, calls)
        await until(lambda: sum(task.done() for task in tasks) == len(refused))
        for task in tasks:
            if task.done():
                error = task.exception()
                assert isinstance(error, CallError)
                assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.TOO_MANY_CALLS)
                assert error.retry_after_ms
        assert [task.get_name() for task in tasks if task.done()] == refused
        works.release.release(len(tasks))
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert len([one for one in done if isinstance(one, str)]) == len(tasks) - len(refused)

    asyncio.run(run())


def test_a_place_is_given_back_only_when_the_thread_of_a_cancelled_call_has_ended() -> None:
    """One that waits leaves its queue at once."""

    async def run() -> None:
        shares, works = Shares("test", BOUNDS._replace(at_once=1)), Works()
        works_on, waits, follows = begun(shares, works, "Ax Ax Bx")
        await until(lambda: works.began)
        for task in (waits, works_on):
            task.cancel()
        done = await asyncio.gather(works_on, waits, return_exceptions=True)
        assert [type(one) for one in done] == [asyncio.CancelledError] * 2
        assert works.began == ["Ax"]
        works.release.release()
        await until(lambda: len(works.began) == 2)
        works.release.release()
        assert await follows == "Bx"
        await shares.stop()

    asyncio.run(run())


def test_work_between_two_statements_ends_when_its_call_has_ended() -> None:
    ended = threading.Event()

    def compute(_: Stop) -> None:
        try:
            while True:
                check_stop()
        except Stopped:
            ended.set()
            raise

    async def run() -> None:
        shares = Shares("test", BOUNDS)
        with pytest.raises(CallError) as caught:
            await shares.run(Caller("A", 1), 0.01, compute)
        assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(ended.is_set)
        await shares.stop()

    asyncio.run(run())
    check_stop()


def test_nothing_is_kept_of_sites_and_keys_without_calls() -> None:
    async def run() -> None:
        shares, works = Shares("test", BOUNDS), Works()
        tasks = begun(shares, works, "Ax Ax Ax Ay Bz -x")
        tasks[2].cancel()
        works.release.release(len(tasks))
        await asyncio.gather(*tasks, return_exceptions=True)
        await until(lambda: not any(shares._sites.values()))
        kept = (shares._sites, shares._keys, shares._queues, shares._served)
        assert [len(one) for one in kept] == [0, 0, 0, 0]

    asyncio.run(run())
