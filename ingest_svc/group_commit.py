"""Group commit: waiting calls share one transaction, and each is answered after its COMMIT."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import grpc
import psycopg

from common.errors import CallError, Reason
from ingest_svc.store_events import Incoming

_log = logging.getLogger(__name__)

MAX_GROUP_EVENTS = 5_000
"""How many events a transaction stores at most. A single call with more has a transaction of its own."""

WORTH_ANOTHER = 500
"""How many events must wait before another transaction begins beside the one under way.

Smaller transactions cost more than they gain by running side by side. From this size on, Postgres works on one while
the rows of the other are put together.
"""

Commit = Callable[[list[Incoming]], list[int]]


def shutting_down() -> CallError:
    """UNAVAILABLE for calls that reach a process that is shutting down."""
    return CallError(
        grpc.StatusCode.UNAVAILABLE,
        Reason.SHUTTING_DOWN,
        "the server is shutting down; nothing was stored, send it again",
        retry_after_ms=1000,
    )


class GroupCommit:
    """A bounded queue of calls in front of a few committing threads. It belongs to one event loop.

    The calls that come in while a transaction runs become the next one. So groups grow with the load, and no call
    waits for a timer. Under heavy load several transactions run at once, one for each of `commits`. Dedupe keys
    exclude duplicates between them as between processes.
    """

    def __init__(self, commits: Sequence[Commit], max_queue_events: int) -> None:
        self._max_queue_events = max_queue_events
        self._queue: deque[tuple[Incoming, asyncio.Future[int]]] = deque()
        self._queued_events = 0
        self._waiting_events = 0
        self._room = asyncio.Event()
        self._closing = False
        self._executor = ThreadPoolExecutor(len(commits), thread_name_prefix="commit")
        # How many waiting events wake a thread: the first takes any number, the others take large groups only.
        self._work = [(WORTH_ANOTHER if number else 1, asyncio.Event()) for number in range(len(commits))]
        self._tasks = [
            asyncio.create_task(self._run(commit, *work)) for commit, work in zip(commits, self._work, strict=True)
        ]

    async def wait_for_room(self, events: int) -> None:
        """Returns once the queue has room for a call of so many events. Enqueue the call before the next await."""
        while self._is_full(events):
            self._room.clear()
            await self._room.wait()

    def enqueue(self, call: Incoming) -> asyncio.Future[int]:
        """Queues a call. The future's result is how many of its events were accepted, once they are committed.

        An empty queue takes a call of any size. Raises CallError when the queue is full or the process is shutting
        down. The future raises what the transaction raised. In all these cases nothing was stored, but for one: if the
        connection is lost during COMMIT, the events may be stored. Their dedupe keys make it safe to send them again.
        """
        if self._is_full(len(call.rows)):
            raise CallError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                Reason.QUEUE_FULL,
                "too many events are waiting to be stored; nothing of this call was, send it again after the delay",
                retry_after_ms=500,
            )
        if self._closing:
            raise shutting_down()
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._queue.append((call, done))
        self._queued_events += len(call.rows)
        self._waiting_events += len(call.rows)
        self._wake()
        return done

    def _wake(self) -> None:
        for at_least, work in self._work:
            if self._closing or self._waiting_events >= at_least:
                work.set()

    def _is_full(self, events: int) -> bool:
        return self._queued_events > 0 and self._queued_events + events > self._max_queue_events

    async def close(self) -> None:
        """Commits what is queued and ends the threads."""
        self._closing = True
        self._wake()
        await asyncio.gather(*self._tasks)
        self._executor.shutdown()

    async def _run(self, commit: Commit, at_least: int, work: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if self._waiting_events < at_least:
                if self._closing:
                    return
                work.clear()
                await work.wait()
                continue
            group = self._next_group()
            calls = [call for call, _ in group]
            try:
                outcomes: list[int | Exception] = [*await loop.run_in_executor(self._executor, commit, calls)]
            except (psycopg.DataError, CallError) as error:
                # The data or the site of one call made the transaction of all fail. Each call is stored alone, so that
                # only that one fails.
                if isinstance(error, CallError):
                    # Expected: a site that is being deleted, for example. The caller gets the error.
                    _log.info("storing %d calls one by one: %s", len(group), error)
                else:
                    _log.exception("a group of %d calls could not be stored; storing them one by one", len(group))
                outcomes = await loop.run_in_executor(self._executor, _one_by_one, commit, calls)
            except Exception as error:  # whatever happened, every caller must get an answer
                outcomes = [error] * len(group)
            for (call, done), outcome in zip(group, outcomes, strict=True):
                self._queued_events -= len(call.rows)
                if done.cancelled():
                    continue
                if isinstance(outcome, Exception):
                    done.set_exception(outcome)
                else:
                    done.set_result(outcome)
            self._room.set()

    def _next_group(self) -> list[tuple[Incoming, asyncio.Future[int]]]:
        group = [self._queue.popleft()]
        events = len(group[0][0].rows)
        while self._queue and events + len(self._queue[0][0].rows) <= MAX_GROUP_EVENTS:
            group.append(self._queue.popleft())
            events += len(group[-1][0].rows)
        self._waiting_events -= events
        return group


def _one_by_one(commit: Commit, calls: list[Incoming]) -> list[int | Exception]:
    outcomes: list[int | Exception] = []
    for call in calls:
        try:
            outcomes += commit([call])
        except Exception as error:  # only the caller of this call gets it
            outcomes.append(error)
    return outcomes
