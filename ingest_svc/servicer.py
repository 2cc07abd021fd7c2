"""IngestService: authenticates, checks, commits and answers."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from footfall.ingest.v1 import ingest_pb2, ingest_pb2_grpc

from common.clock import Clock
from common.errors import CallError, Reason, quoted, site_closed
from common.keys import KeyKind, KeyRing, metadata_value
from common.sites import ACTIVE, Site
from common.telemetry import tracing
from ingest_svc.event_rows import to_rows
from ingest_svc.group_commit import GroupCommit, shutting_down
from ingest_svc.judge import IngestRequest, check_batch
from ingest_svc.metrics import count_events
from ingest_svc.store_events import Incoming

SERVICE = "footfall.ingest.v1.IngestService"

_READ_AHEAD = 8
"""How many requests of one stream may wait for their commit at once."""

_HOW_TO_AUTHENTICATE = "a site's write key in the metadata x-write-key"

Context = grpc.aio.ServicerContext[Any, Any]
Answers = asyncio.Queue[asyncio.Task[ingest_pb2.IngestStreamResponse] | None]


class IngestServicer(ingest_pb2_grpc.IngestServiceServicer):
    """Stores batches of events; see protos/footfall/ingest/v1/ingest.proto."""

    def __init__(self, keys: KeyRing, group_commit: GroupCommit, clock: Clock, max_batch_events: int) -> None:
        self._keys = keys
        self._group_commit = group_commit
        self._clock = clock
        self._max_batch_events = max_batch_events
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
        call, errors = self._prepare(request, await self._authenticate(context))
        accepted = await self._group_commit.enqueue(call) if call.rows else 0
        count_events(call.site.slug, accepted, len(call.rows) - accepted, len(errors))
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
        reader = asyncio.create_task(self._read(requests, context, ahead, answers))
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
        context: Context,
        ahead: asyncio.Semaphore,
        answers: Answers,
    ) -> None:
        """Puts a task for the answer to each request into `answers`, and None when it ends, whatever ended it."""
        try:
            while await ahead.acquire() and (request := await anext(requests, None)) is not None:
                site = await self._authenticate(context)
                # A stream is not refused but slowed down: it is read on when there is room.
                await self._group_commit.wait_for_room(len(request.events))
                call, errors = self._prepare(request, site)
                accepted = self._group_commit.enqueue(call) if call.rows else None
                answers.put_nowait(asyncio.create_task(_answer(call, accepted, errors)))
        finally:
            answers.put_nowait(None)

    def _prepare(self, request: IngestRequest, site: Site) -> tuple[Incoming, list[ingest_pb2.EventError]]:
        check_batch(request, self._max_batch_events)
        now = self._clock()
        rows, errors = to_rows(request, site, now)
        return Incoming(site, rows, now, tracing.current()), errors

    async def _authenticate(self, context: Context) -> Site:
        sent = metadata_value(context, "x-write-key")
        key = await self._keys.authenticate(sent, _HOW_TO_AUTHENTICATE, KeyKind.WRITE)
        site = key.site
        assert site is not None, "a write key is always a site's"
        if site.status != ACTIVE:
            raise site_closed(site.slug)
        origin = metadata_value(context, "origin")
        if origin is not None and site.allowed_origins and origin not in site.allowed_origins:
            raise CallError(
                grpc.StatusCode.PERMISSION_DENIED,
                Reason.ORIGIN_NOT_ALLOWED,
                f"origin {quoted(origin)} may not send to this site; add it to the site's allowed_origins",
            )
        return site


async def _answer(
    call: Incoming, accepted: asyncio.Future[int] | None, errors: list[ingest_pb2.EventError]
) -> ingest_pb2.IngestStreamResponse:
    stored = await accepted if accepted else 0
    count_events(call.site.slug, stored, len(call.rows) - stored, len(errors))
    return ingest_pb2.IngestStreamResponse(
        accepted=stored, duplicate=len(call.rows) - stored, rejected=len(errors), errors=errors
    )
