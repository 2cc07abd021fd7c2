"""IngestService: authenticates, checks, commits and answers."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from footfall.ingest.v1 import ingest_pb2, ingest_pb2_grpc

from common.calls.call import Call, call_under_way, caller
from common.clock import Clock
from common.errors import CallError, Reason, quoted, site_closed
from common.keys.key import Key, KeyKind
from common.keys.ring import KeyRing
from common.sites import ACTIVE, Site
from common.telemetry import tracing
from ingest_svc.event_rows import to_rows
from ingest_svc.group_commit import GroupCommit, shutting_down
from ingest_svc.judge import IngestRequest, check_defaults
from ingest_svc.metrics import count_events
from ingest_svc.rate_limit import RateLimits
from ingest_svc.store_events import Incoming

SERVICE = "footfall.ingest.v1.IngestService"

_READ_AHEAD = 8
"""How many requests of one stream may wait for their commit at once."""

_LOOK_AGAIN_SECONDS = 1.0
"""How long a stream over its site's rate waits until it looks at the rate again."""

_HOW_TO_AUTHENTICATE = "a site's write key in the metadata x-write-key"

Context = grpc.aio.ServicerContext[Any, Any]
Answers = asyncio.Queue[asyncio.Task[ingest_pb2.IngestStreamResponse] | None]


class Senders:
    """Lets calls in that may send events to a site."""

    def __init__(self, keys: KeyRing) -> None:
        self._keys = keys

    async def authenticate(self, call: Call) -> Key:
        """The write key of the call. Raises CallError without one, for a site that takes no events and for an origin
        that may not send."""
        key = await self._keys.authenticate(call.metadata("x-write-key"), _HOW_TO_AUTHENTICATE, KeyKind.WRITE)
        site = key.site
        assert site is not None, "a write key is always a site's"
        if site.status != ACTIVE:
            raise site_closed(site.slug)
        origin = call.metadata("origin")
        if origin is not None and site.allowed_origins and origin not in site.allowed_origins:
            raise CallError(
                grpc.StatusCode.PERMISSION_DENIED,
                Reason.ORIGIN_NOT_ALLOWED,
                f"origin {quoted(origin)} may not send to this site; add it to the site's allowed_origins",
            )
        return key


class IngestServicer(ingest_pb2_grpc.IngestServiceServicer):
    """Stores batches of events; see protos/footfall/ingest/v1/ingest.proto."""

    def __init__(self, senders: Senders, group_commit: GroupCommit, rate_limits: RateLimits, clock: Clock) -> None:
        self._senders = senders
        self._group_commit = group_commit
        self._rate_limits = rate_limits
        self._clock = clock
        self._readers: set[asyncio.Task[None]] = set()
        self._draining = False

    def drain_streams(self) -> None:
        """Stops reading from open streams. They answer the requests that were read and end with SHUTTING_DOWN."""
        self._draining = True
        for reader in self._readers:
            reader.cancel()

    async def IngestBatch(
        self, request: ingest_pb2.IngestBatchRequest, context: Context
    ) -> ingest_pb2.IngestBatchResponse:
        site = _site(caller())
        check_defaults(request)
        self._rate_limits.check(site, len(request.events))
        call, errors = self._prepare(request, site)
        try:
            done = self._group_commit.enqueue(call) if call.rows else None
        except CallError:
            self._rate_limits.give_back(site, len(request.events))
            raise
        accepted = await done if done else 0
        count_events(site.slug, accepted, len(call.rows) - accepted, len(errors))
        return ingest_pb2.IngestBatchResponse(
            accepted=accepted, duplicate=len(call.rows) - accepted, rejected=len(errors), errors=errors
        )

    async def IngestStream(
        self, requests: AsyncIterator[ingest_pb2.IngestStreamRequest], context: Context
    ) -> AsyncIterator[ingest_pb2.IngestStreamResponse]:
        """Reads requests ahead while commits run, and answers them in order. A refused request ends the stream after
        the answers to the requests before it. Requests after it are not processed."""
        answers: Answers = asyncio.Queue()
        ahead = asyncio.Semaphore(_READ_AHEAD)
        reader = asyncio.create_task(self._read(requests, ahead, answers))
        self._readers.add(reader)
        try:
            while (answer := await answers.get()) is not None:
                yield await answer
                ahead.release()
            if self._draining:
                raise shutting_down()
            await reader
        finally:
            self._readers.discard(reader)
            reader.cancel()
            while not answers.empty():
                if (left := answers.get_nowait()) is not None:
                    # No caller waits for this answer any more, so an error of its commit is dropped.
                    left.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _read(
        self,
        requests: AsyncIterator[ingest_pb2.IngestStreamRequest],
        ahead: asyncio.Semaphore,
        answers: Answers,
    ) -> None:
        """Puts a task for the answer to each request into `answers`, and None when it ends, whatever ended it."""
        try:
            while await ahead.acquire() and (request := await anext(requests, None)) is not None:
                # Again for each request, because a key may end while its stream is open.
                site = await self._site_now()
                check_defaults(request)
                # A stream is not refused but slowed down: it is read on when its site may send and there is room.
                site = await self._keep_to_rate(site, len(request.events))
                call, errors = self._prepare(request, site)
                accepted = await self._group_commit.enqueue_when_there_is_room(call) if call.rows else None
                answers.put_nowait(asyncio.create_task(_answer(call, accepted, errors)))
        finally:
            answers.put_nowait(None)

    async def _keep_to_rate(self, site: Site, events: int) -> Site:
        """Waits until the site's rate admits the events. Returns the site as it is then."""
        if not site.max_events_per_second:
            return site
        async with self._rate_limits.turn(site):
            while wait := self._rate_limits.delay(site, events):
                # Key and site are looked at once a second, because either may change meanwhile, the rate included.
                await asyncio.sleep(min(wait / 1e9, _LOOK_AGAIN_SECONDS))
                site = await self._site_now()
        return site

    async def _site_now(self) -> Site:
        return _site(await self._senders.authenticate(call_under_way()))

    def _prepare(self, request: IngestRequest, site: Site) -> tuple[Incoming, list[ingest_pb2.EventError]]:
        now = self._clock()
        rows, errors = to_rows(request, site, now)
        return Incoming(site, rows, now, tracing.current()), errors


def _site(key: Key) -> Site:
    assert key.site is not None, "a write key is always a site's"
    return key.site


async def _answer(
    call: Incoming, accepted: asyncio.Future[int] | None, errors: list[ingest_pb2.EventError]
) -> ingest_pb2.IngestStreamResponse:
    stored = await accepted if accepted else 0
    count_events(call.site.slug, stored, len(call.rows) - stored, len(errors))
    return ingest_pb2.IngestStreamResponse(
        accepted=stored, duplicate=len(call.rows) - stored, rejected=len(errors), errors=errors
    )
