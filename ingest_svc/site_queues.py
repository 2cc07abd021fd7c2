"""The calls that wait in an ingest process: a bounded queue for each site, taken from in turns. No I/O, no clock.

How much a site may hold follows Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet
switches" (1998): as much as is free in all. So one site that floods the process gets half of it, two get a third
each, and there is always room for another site. Whose turn it is follows the scheduler of FlowQueue-CoDel (RFC 8290,
4.2): deficit round robin by events, in which the first few of a site that had nothing waiting come before all others.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from ingest_svc.store_events import Incoming

QUANTUM = 500
"""How many events a site may store in its turn while others wait."""

FIRST_QUANTUM = 50
"""How many it may store before the others when it had nothing waiting. So the single events of 100 sites are in the
next group of 5,000; a site that begins with more has it stored in its turn."""


_ROW_BYTES = 250
"""What a waiting event takes in memory besides its encoded fields: a tuple, its key, and the heads of both."""


@dataclass(slots=True, eq=False)
class Waiting:
    """A call that waits for its commit, and the future of how many of its events were accepted."""

    call: Incoming
    size: int
    """What it takes in memory, in bytes."""
    done: "asyncio.Future[int]"
    give_up_at: float | None = None
    """When it is answered with an error if a lock still holds it up. None = no lock has."""

    @classmethod
    def of(cls, call: Incoming) -> "Waiting":
        """A call that has just come in."""
        size = sum([len(row.fields) for row in call.rows]) + _ROW_BYTES * len(call.rows)
        return cls(call, size, asyncio.get_running_loop().create_future())

    @property
    def events(self) -> int:
        """How many events it holds; at least one."""
        return len(self.call.rows)


@dataclass(slots=True, eq=False)
class _Queue:
    """The calls of one site."""

    site_id: int
    calls: deque[Waiting] = field(default_factory=deque)
    streams: "deque[tuple[Waiting, asyncio.Future[None]]]" = field(default_factory=deque)
    """Calls that are not in the queue yet, because it has no room for them, and the futures of their being in it."""
    events: int = 0
    """Events that wait or are being committed."""
    size: int = 0
    """The same in bytes."""
    credit: int = FIRST_QUANTUM
    """How many events it may still store in its turn; below 0 = more than that were stored."""
    turns: "deque[_Queue] | None" = None
    """The list in which it waits for its turn."""


class SiteQueues:
    """One queue a site, inside common bounds in events and bytes. Queues without calls are dropped."""

    def __init__(self, max_events: int, max_bytes: int) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._queues: dict[int, _Queue] = {}
        # Sites that had nothing waiting, the others, and those whose calls are stored apart from all others.
        self._new: deque[_Queue] = deque()
        self._old: deque[_Queue] = deque()
        self._apart: deque[_Queue] = deque()
        # Those with streams that wait for room.
        self._crowded: OrderedDict[int, _Queue] = OrderedDict()
        self.events = 0
        """Events that wait or are being committed."""
        self.size = 0
        """The same in bytes."""
        self.waiting_events = 0
        """Events that wait, without those of sites that are stored apart."""
        self.apart_events = 0
        """Events of sites that are stored apart that wait."""

    def __len__(self) -> int:
        """How many sites have a queue."""
        return len(self._queues)

    def has_room(self, waiting: Waiting) -> bool:
        """Whether the call may be put into its site's queue. An empty process has room for a call of any size."""
        if not self.events:
            return True
        queue = self._queues.get(waiting.call.site.site_id)
        events, size = (queue.events, queue.size) if queue else (0, 0)
        return (
            events + waiting.events <= self._max_events - self.events
            and size + waiting.size <= self._max_bytes - self.size
        )

    def put(self, waiting: Waiting) -> None:
        """Puts a call at the end of its site's queue."""
        queue = self._queue_of(waiting)
        events = waiting.events
        queue.calls.append(waiting)
        queue.events += events
        queue.size += waiting.size
        self.events += events
        self.size += waiting.size
        if queue.turns is None:
            queue.credit = FIRST_QUANTUM
            self._list(queue, self._new)
        if queue.turns is self._apart:
            self.apart_events += events
        else:
            self.waiting_events += events

    def take(self, limit: int) -> list[Waiting]:
        """The next calls of the sites in turns, at most `limit` events. A larger call is taken alone."""
        group: list[Waiting] = []
        events = 0
        while self.waiting_events:
            turns = self._new or self._old
            queue = turns[0]
            if not queue.calls:
                # A site whose single calls were stored keeps its place among the others until its turn comes, so that
                # it is not new, and thus first, with each of its calls.
                self._unlist(queue)
                if turns is self._new:
                    self._list(queue, self._old)
                else:
                    self._drop_idle(queue)
            elif queue.credit < (queue.calls[0].events if turns is self._new else 1):
                queue.credit += QUANTUM
                self._unlist(queue)
                self._list(queue, self._old)
            else:
                size = queue.calls[0].events
                if group and events + size > limit:
                    return group
                group.append(queue.calls.popleft())
                events += size
                queue.credit -= size
                self.waiting_events -= size
        for queue in [*self._new, *self._old]:
            self._unlist(queue)
            self._drop_idle(queue)
        return group

    def put_back(self, group: Sequence[Waiting]) -> None:
        """Puts calls that were taken back to the heads of their queues. Sites that are not stored apart come next."""
        for waiting in reversed(group):
            queue = self._queue_of(waiting)
            queue.calls.appendleft(waiting)
            if queue.turns is self._apart:
                self.apart_events += waiting.events
                continue
            self.waiting_events += waiting.events
            self._unlist(queue)
            queue.credit = QUANTUM
            queue.turns = self._new
            self._new.appendleft(queue)

    def set_apart(self, site_id: int) -> None:
        """From now on the site's calls are taken by `take_apart` only."""
        queue = self._queues[site_id]
        if queue.turns is not self._apart:
            self._unlist(queue)
            self._list(queue, self._apart)
            events = sum(waiting.events for waiting in queue.calls)
            self.waiting_events -= events
            self.apart_events += events

    def take_apart(self, limit: int) -> list[Waiting]:
        """The next calls of one site that is stored apart; these sites take turns. At most `limit` events, and at least
        one call. `apart_events` must not be 0."""
        while not self._apart[0].calls:
            self._apart.rotate(-1)
        queue = self._apart[0]
        self._apart.rotate(-1)
        group = [queue.calls.popleft()]
        events = group[0].events
        while queue.calls and events + queue.calls[0].events <= limit:
            group.append(queue.calls.popleft())
            events += group[-1].events
        self.apart_events -= events
        return group

    def rejoin(self, site_id: int) -> None:
        """The site's calls are taken by `take` again."""
        queue = self._queues[site_id]
        if queue.turns is self._apart:
            self._unlist(queue)
            self._list(queue, self._old)
            events = sum(waiting.events for waiting in queue.calls)
            self.apart_events -= events
            self.waiting_events += events

    def release(self, waiting: Waiting) -> None:
        """Frees the room of a call that was taken and is answered."""
        queue = self._queues[waiting.call.site.site_id]
        queue.events -= waiting.events
        queue.size -= waiting.size
        self.events -= waiting.events
        self.size -= waiting.size
        if not queue.events:
            if queue.turns is self._apart:
                self._unlist(queue)
            self._drop_idle(queue)

    def has_streams(self, site_id: int) -> bool:
        """Whether a stream of the site waits for room."""
        return site_id in self._crowded

    def wait_for_room(self, waiting: Waiting, let_in: "asyncio.Future[None]") -> None:
        """Makes a stream's call wait, after those of its site that do. `let_in` is done once it is in the queue."""
        queue = self._queue_of(waiting)
        queue.streams.append((waiting, let_in))
        self._crowded[queue.site_id] = queue

    def let_streams_in(self) -> None:
        """Puts the calls of streams for which there is room now into their queues."""
        for queue in [*self._crowded.values()]:
            while queue.streams:
                waiting, let_in = queue.streams[0]
                if let_in.cancelled():
                    queue.streams.popleft()
                elif self.has_room(waiting):
                    queue.streams.popleft()
                    self.put(waiting)
                    let_in.set_result(None)
                    # The sites take turns here too.
                    self._crowded.move_to_end(queue.site_id)
                else:
                    break
            self._drop_uncrowded(queue)

    def forget_gone_streams(self, site_id: int) -> None:
        """Forgets the calls of the site's streams whose futures were cancelled."""
        queue = self._queues.get(site_id)
        if queue is not None and queue.streams:
            queue.streams = deque(one for one in queue.streams if not one[1].cancelled())
            self._drop_uncrowded(queue)

    def refuse_streams(self, error: Exception) -> None:
        """Forgets every call that waits for room; its future raises the error."""
        for queue in [*self._crowded.values()]:
            for _, let_in in queue.streams:
                if not let_in.done():
                    let_in.set_exception(error)
            queue.streams.clear()
            self._drop_uncrowded(queue)

    def _drop_uncrowded(self, queue: _Queue) -> None:
        if not queue.streams:
            del self._crowded[queue.site_id]
            self._drop_idle(queue)

    def _queue_of(self, waiting: Waiting) -> _Queue:
        site_id = waiting.call.site.site_id
        queue = self._queues.get(site_id)
        if queue is None:
            queue = self._queues[site_id] = _Queue(site_id)
        return queue

    @staticmethod
    def _list(queue: _Queue, turns: deque[_Queue]) -> None:
        queue.turns = turns
        turns.append(queue)

    @staticmethod
    def _unlist(queue: _Queue) -> None:
        if queue.turns is not None:
            if queue.turns[0] is queue:
                queue.turns.popleft()
            else:
                queue.turns.remove(queue)
            queue.turns = None

    def _drop_idle(self, queue: _Queue) -> None:
        if not queue.events and not queue.streams and queue.turns is None:
            del self._queues[queue.site_id]
