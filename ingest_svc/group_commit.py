"""Group commit: waiting calls share one transaction, and each is answered after its COMMIT."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import grpc
import psycopg

from common.errors import CallError, Reason
from ingest_svc.metrics import watch_queue
from ingest_svc.site_queues import SiteQueues, Waiting
from ingest_svc.store_events import Incoming, SiteFault

_log = logging.getLogger(__name__)

MAX_GROUP_EVENTS = 5_000
"""How many events a transaction stores at most. A single call with more has a transaction of its own."""

WORTH_ANOTHER = 500
"""How many events must wait before another transaction begins beside the one under way.

Smaller transactions cost more than they gain by running side by side. From this size on, Postgres works on one while
the rows of the other are put together.
"""

LOCKED_SECONDS = 5.0
"""For how long a call is tried again whose site's dedupe keys another transaction holds. Then it is UNAVAILABLE."""

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
    """Bounded queues of calls, one for each site, in front of a few committing threads. It belongs to one event loop.

    The calls that come in while a transaction runs become the next one. So groups grow with the load, and no call
    waits for a timer. Under heavy load several transactions run at once, one for each of `commits`. Dedupe keys
    exclude duplicates between them as between processes.

    A group takes the calls of all sites in turns. A site whose part makes a transaction fail is stored apart from then
    on, in one thread at most, until that succeeds; the other sites' calls are in the next group.
    """

    def __init__(
        self,
        commits: Sequence[Commit],
        max_queue_events: int,
        max_queue_bytes: int,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        """`seconds` is a clock that never goes back."""
        self._queues = SiteQueues(max_queue_events, max_queue_bytes)
        watch_queue(lambda: self._queues.events, max_queue_events)
        self._seconds = seconds
        self._closing = False
        self._apart_under_way = False
        self._apart_was_last = False
        self._executor = ThreadPoolExecutor(len(commits), thread_name_prefix="commit")
        # How many waiting events wake a thread: the first takes any number, the others take large groups only.
        self._work = [(WORTH_ANOTHER if number else 1, asyncio.Event()) for number in range(len(commits))]
        self._tasks = [
            asyncio.create_task(self._run(commit, *work)) for commit, work in zip(commits, self._work, strict=True)
        ]

    def enqueue(self, call: Incoming) -> asyncio.Future[int]:
        """Queues a call. The future's result is how many of its events were accepted, once they are committed.

        An empty process takes a call of any size. Raises CallError when the site's queue is full or the process is
        shutting down. The future raises what the transaction raised. In all these cases nothing was stored, but for
        one: if the connection is lost during COMMIT, the events may be stored. Their dedupe keys make it safe to send
        them again.
        """
        waiting = self._waiting(call)
        if not self._queues.has_room(waiting):
            raise CallError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                Reason.QUEUE_FULL,
                "too many events of this site are waiting to be stored; nothing of this call was, send it again after "
                "the delay",
                retry_after_ms=500,
            )
        self._put(waiting)
        return waiting.done

    async def enqueue_when_there_is_room(self, call: Incoming) -> asyncio.Future[int]:
        """As `enqueue`, but waits while the site's queue is full. Calls of one site are queued in the order they came.

        Raises CallError when the process is shutting down.
        """
        waiting = self._waiting(call)
        if self._queues.has_room(waiting) and not self._queues.has_streams(call.site.site_id):
            self._put(waiting)
            return waiting.done
        let_in: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues.wait_for_room(waiting, let_in)
        try:
            await let_in
        except asyncio.CancelledError:
            self._queues.forget_gone_streams(call.site.site_id)
            # It may be in the queue already. Then it is stored, and nobody waits for the outcome.
            waiting.done.cancel()
            raise
        return waiting.done

    async def close(self) -> None:
        """Commits what is queued and ends the threads."""
        self._closing = True
        self._queues.refuse_streams(shutting_down())
        self._wake()
        await asyncio.gather(*self._tasks)
        self._executor.shutdown()

    def _waiting(self, call: Incoming) -> Waiting:
        if self._closing:
            raise shutting_down()
        return Waiting.of(call)

    def _put(self, waiting: Waiting) -> None:
        self._queues.put(waiting)
        self._wake()

    def _wake(self) -> None:
        for at_least, work in self._work:
            if self._closing or self._has_work(at_least):
                work.set()

    def _has_work(self, at_least: int) -> bool:
        # While one thread stores a site apart, which may take long, another takes any number of the others' events.
        if self._queues.waiting_events >= (1 if self._apart_under_way else at_least):
            return True
        return bool(self._queues.apart_events) and not self._apart_under_way

    async def _run(self, commit: Commit, at_least: int, work: asyncio.Event) -> None:
        while True:
            if not self._has_work(at_least):
                # Calls that are being committed may be put back.
                if self._closing and not self._queues.events:
                    return
                work.clear()
                await work.wait()
            elif self._is_turn_of_apart():
                self._apart_under_way = self._apart_was_last = True
                self._wake()
                await self._store_apart(commit, self._queues.take_apart(MAX_GROUP_EVENTS))
                self._apart_under_way = False
                self._wake()
            else:
                self._apart_was_last = False
                await self._store(commit, self._queues.take(MAX_GROUP_EVENTS))
                # Calls may have been put back, and calls of streams let in.
                self._wake()

    def _is_turn_of_apart(self) -> bool:
        if not self._queues.apart_events or self._apart_under_way:
            return False
        return not self._apart_was_last or not self._queues.waiting_events

    async def _store(self, commit: Commit, group: list[Waiting]) -> None:
        """Stores calls of many sites in one transaction. Does not raise."""
        outcomes = await self._committed(commit, group)
        if isinstance(outcomes, SiteFault):
            self._refuse_or_put_back(group, outcomes)
        elif isinstance(outcomes, psycopg.DataError):
            # The data of one call made the transaction of all fail. Each site is stored apart, so that only that
            # call's site has to be stored call by call.
            _log.error("a group of %d calls could not be stored; storing it by site", len(group), exc_info=outcomes)
            self._put_back(group, {waiting.call.site.site_id for waiting in group})
        else:
            self._answer(group, outcomes)

    async def _store_apart(self, commit: Commit, group: list[Waiting]) -> None:
        """Stores calls of one site that is stored apart. Does not raise."""
        site_id = group[0].call.site.site_id
        outcomes = await self._committed(commit, group)
        if isinstance(outcomes, SiteFault):
            self._refuse_or_put_back(group, outcomes)
            return
        if isinstance(outcomes, psycopg.DataError):
            calls = [waiting.call for waiting in group]
            outcomes = await asyncio.get_running_loop().run_in_executor(self._executor, _one_by_one, commit, calls)
        self._queues.rejoin(site_id)
        self._answer(group, outcomes)

    async def _committed(self, commit: Commit, group: list[Waiting]) -> Sequence[int | Exception] | Exception:
        """The outcomes of the calls, or the error of their common transaction."""
        calls = [waiting.call for waiting in group]
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, commit, calls)
        except Exception as error:  # whatever happened, every caller must get an answer
            return error

    def _refuse_or_put_back(self, group: list[Waiting], fault: SiteFault) -> None:
        """Answers the calls of a site that takes no events, or that others have locked for too long already. Puts the
        other calls back, those of the locked site apart."""
        locked = isinstance(fault.error, psycopg.errors.LockNotAvailable)
        now = self._seconds()
        refused: list[Waiting] = []
        left: list[Waiting] = []
        for waiting in group:
            if waiting.give_up_at is None and locked:
                waiting.give_up_at = now + LOCKED_SECONDS
            own = waiting.call.site.site_id == fault.site_id
            late = waiting.give_up_at is not None and now >= waiting.give_up_at
            (refused if (own and not locked) or (locked and late) else left).append(waiting)
        self._put_back(left, {fault.site_id} if locked else set())
        self._answer(refused, fault.error)

    def _put_back(self, group: list[Waiting], apart: set[int]) -> None:
        self._queues.put_back(group)
        for site_id in apart:
            self._queues.set_apart(site_id)
            # The others have waited for it, so it is their turn.
            self._apart_was_last = True

    def _answer(self, group: list[Waiting], outcomes: Sequence[int | Exception] | Exception) -> None:
        """Answers the calls and lets calls of streams into the room that they leave."""
        if isinstance(outcomes, Exception):
            outcomes = [outcomes] * len(group)
        for waiting, outcome in zip(group, outcomes, strict=True):
            self._queues.release(waiting)
            if waiting.done.cancelled():
                continue
            if isinstance(outcome, Exception):
                waiting.done.set_exception(outcome)
            else:
                waiting.done.set_result(outcome)
        self._queues.let_streams_in()


def _one_by_one(commit: Commit, calls: list[Incoming]) -> list[int | Exception]:
    outcomes: list[int | Exception] = []
    for call in calls:
        try:
            outcomes += commit([call])
        except SiteFault as fault:
            outcomes.append(fault.error)
        except Exception as error:  # only the caller of this call gets it
            outcomes.append(error)
    return outcomes
