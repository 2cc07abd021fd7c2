"""Runs the work of calls in threads, so that no site and no key takes all of them.

At most so many calls work at once, and fewer of one site and of one key. Others wait. Of those that may begin, the one
whose site was served longest ago is next, then the one whose key was. Each number of waiting calls is bounded.
"""

import asyncio
import itertools
import logging
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import NamedTuple, TypeVar

import grpc
import psycopg

from common.calls.stopping import Stop, Stopped
from common.errors import CallError, Reason

_log = logging.getLogger(__name__)

Result = TypeVar("Result")

_AGAIN_SECONDS = 0.05
"""The first pause between two attempts to stop a thread; it doubles up to half a second."""
_LONGEST_PAUSE_SECONDS = 0.5
_STOP_SECONDS = 5.0


class Caller(NamedTuple):
    """For whom a call is: a slug, and the id of a key."""

    site: str
    """"" = of no single site; then only the key's share bounds it."""
    key: int


class Bounds(NamedTuple):
    """Numbers of calls."""

    at_once: int
    site_at_once: int
    key_at_once: int
    site_waiting: int = 32
    key_waiting: int = 128
    all_waiting: int = 512


class Shares:
    """Threads, and who may use them. Belongs to one event loop."""

    def __init__(self, name: str, bounds: Bounds) -> None:
        """`name` is that of the threads."""
        self._bounds = bounds
        self._executor = ThreadPoolExecutor(bounds.at_once, thread_name_prefix=name)
        # Threads of their own: the others may all be busy with what is to be stopped.
        self._stoppers = ThreadPoolExecutor(2, thread_name_prefix=f"{name}-stop")
        self._stopping: set[asyncio.Task[None]] = set()
        self._sites: Counter[str] = Counter()
        self._keys: Counter[int] = Counter()
        self._queues: dict[Caller, deque[asyncio.Future[None]]] = {}
        # When a site or key was served last, in turns. Only of those that work or wait now.
        self._served: dict[str | int, int] = {}
        self._turns = itertools.count(1)

    async def run(self, caller: Caller, seconds: float | None, work: Callable[[Stop], Result]) -> Result:
        """Does `work` in a thread, when the caller's turn has come. `seconds` is how long the caller waits at most.

        When this is cancelled or the time is over, a call that waits leaves its queue, and one that works is stopped:
        Stop tells `work`, whose place is given back when its thread has ended. Raises CallError: RESOURCE_EXHAUSTED
        when too many calls wait, DEADLINE_EXCEEDED when the time is over.
        """
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                await self._turn(caller)
                return await self._work(caller, Stop(seconds), work)
        except TimeoutError:
            if not limit.expired():
                raise
            message = "the call's deadline has passed; allow more time, or ask for a shorter range or fewer rows"
            raise CallError(grpc.StatusCode.DEADLINE_EXCEEDED, Reason.STATEMENT_TOO_SLOW, message) from None

    async def stop(self) -> None:
        """Waits, for a bounded time, until what works for calls that have ended has stopped."""
        if self._stopping:
            await asyncio.wait(self._stopping, timeout=_STOP_SECONDS)

    async def _turn(self, caller: Caller) -> None:
        if caller not in self._queues and self._may_begin(caller):
            self._begin(caller)
            return
        self._refuse_if_full(caller)
        turn = asyncio.get_running_loop().create_future()
        self._queues.setdefault(caller, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                # The turn and the end of the call came at the same time.
                self._leave(caller)
            elif turn in self._queues.get(caller, ()):
                self._queues[caller].remove(turn)
                self._tidy(caller)
            raise

    async def _work(self, caller: Caller, stop: Stop, work: Callable[[Stop], Result]) -> Result:
        def do() -> Result:
            with stop.running():
                return work(stop)

        # With the context of the call, which names it in log lines and traces.
        future = asyncio.get_running_loop().run_in_executor(self._executor, copy_context().run, do)
        future.add_done_callback(partial(self._done, caller))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            task = asyncio.create_task(self._stop_thread(stop, future))
            self._stopping.add(task)
            task.add_done_callback(self._stopping.discard)
            raise

    async def _stop_thread(self, stop: Stop, future: "asyncio.Future[Result]") -> None:
        pause = _AGAIN_SECONDS
        while not future.done():
            try:
                await asyncio.get_running_loop().run_in_executor(self._stoppers, stop.now)
            except psycopg.Error as error:
                _log.warning("a statement whose call has ended could not be cancelled yet: %s", error)
            await asyncio.wait([future], timeout=pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _done(self, caller: Caller, future: "asyncio.Future[object]") -> None:
        # Of a call that has ended, nobody else asks for it. asyncio would log that as a defect.
        error = None if future.cancelled() else future.exception()
        if error is not None and not isinstance(error, (Stopped, CallError, psycopg.Error)):
            _log.debug("work of a call failed: %r", error)
        self._leave(caller)

    def _may_begin(self, caller: Caller) -> bool:
        bounds = self._bounds
        return (
            self._keys.total() < bounds.at_once
            and self._keys[caller.key] < bounds.key_at_once
            and (not caller.site or self._sites[caller.site] < bounds.site_at_once)
        )

    def _begin(self, caller: Caller) -> None:
        self._keys[caller.key] += 1
        self._sites[caller.site] += 1
        self._served[caller.key] = self._served[caller.site] = next(self._turns)

    def _leave(self, caller: Caller) -> None:
        self._keys[caller.key] -= 1
        self._sites[caller.site] -= 1
        # One that leaves can make room for two: for one of its site and for one of its key.
        while ready := [queued for queued in self._queues if self._may_begin(queued)]:
            following = min(ready, key=lambda one: (self._served.get(one.site, 0), self._served.get(one.key, 0)))
            turn = self._queues[following].popleft()
            # A call that has ended in this moment is still in its queue.
            if not turn.cancelled():
                self._begin(following)
                turn.set_result(None)
            self._tidy(following)
        self._tidy(caller)

    def _tidy(self, caller: Caller) -> None:
        """Keeps nothing of sites and keys that neither work nor wait."""
        if not self._queues.get(caller, True):
            del self._queues[caller]
        if not self._sites[caller.site] and not any(one.site == caller.site for one in self._queues):
            del self._sites[caller.site]
            self._served.pop(caller.site, None)
        if not self._keys[caller.key] and not any(one.key == caller.key for one in self._queues):
            del self._keys[caller.key]
            self._served.pop(caller.key, None)

    def _refuse_if_full(self, caller: Caller) -> None:
        """Raises CallError (RESOURCE_EXHAUSTED)."""
        bounds = self._bounds
        of_site = sum(len(queue) for one, queue in self._queues.items() if one.site == caller.site and one.site)
        of_key = sum(len(queue) for one, queue in self._queues.items() if one.key == caller.key)
        everybody = sum(map(len, self._queues.values()))
        if of_site >= bounds.site_waiting:
            whose = "of this site"
        elif of_key >= bounds.key_waiting:
            whose = "with this key"
        elif everybody >= bounds.all_waiting:
            whose = "of this process"
        else:
            return
        raise CallError(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            Reason.TOO_MANY_CALLS,
            f"too many calls {whose} wait; make fewer at once and try again after the delay",
            retry_after_ms=1_000,
        )
