"""The maintenance RPCs of AdminService. Each does one chunk of work.

Page tokens are used here and in servicer.py only, protobuf in messages.py too. The functions called from here take
plain values.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

import grpc
import psycopg
from footfall.admin.v1 import admin_pb2 as pb
from footfall.admin.v1 import admin_pb2_grpc

from admin_svc import messages
from admin_svc.chunk import Chunk, Position
from admin_svc.counting import aggregate, compact, dead_letters, queue
from admin_svc.counting.aggregate import Aggregator
from admin_svc.maintenance import cleanup, delete_site, prune, rebuild
from admin_svc.maintenance.erasure import erase
from admin_svc.maintenance.erasure.events import Subject
from admin_svc.schedule.runs import ALL_SITES
from admin_svc.site_lock import SiteBusy
from common.calls.call import caller
from common.calls.shares import Bounds, Caller, Shares
from common.calls.stopping import Stop
from common.clock import Clock
from common.db import Database
from common.errors import Reason, invalid, quoted, site_busy
from common.page_tokens import PageTokens
from common.paging import bounded, cut_page, page_size
from common.sites import Site, find_site
from common.timestamps import from_timestamp

HOW_TO_AUTHENTICATE = "an admin key as authorization: Bearer <key>"

_PARTITION_WAIT_MS = 5_000
"""How long AggregatePending waits if other workers hold every partition of the site that has work."""

_CHUNKS = Bounds(at_once=3, site_at_once=2, key_at_once=3)
"""Calls that do a chunk. One thread is left to other sites."""
_SHORT = Bounds(at_once=4, site_at_once=4, key_at_once=3)
"""Calls for sites, keys and status. One thread is left to other admin keys."""

Context = grpc.aio.ServicerContext[Any, Any]
Connection = psycopg.Connection[Any]
Result = TypeVar("Result")


class MaintenanceRpcs(admin_pb2_grpc.AdminServiceServicer):
    """One method per RPC; see protos/footfall/admin/v1/admin.proto. servicer.py adds the other RPCs."""

    def __init__(self, db: Database, tokens: PageTokens, aggregator: Aggregator, clock: Clock) -> None:
        self._db = db
        self._tokens = tokens
        self._aggregator = aggregator
        self._clock = clock
        # Chunks have their own threads, because one that waits for a partition must not delay the end of a key.
        self._chunks = Shares("chunks", _CHUNKS)
        self._short = Shares("transactions", _SHORT)

    async def AggregatePending(
        self, request: pb.AggregatePendingRequest, context: Context
    ) -> pb.AggregatePendingResponse:
        limit = _limit(request.limit, aggregate.DEFAULT_LIMIT, aggregate.MAX_LIMIT)

        def work(connection: Connection, site: Site) -> pb.AggregatePendingResponse:
            chunk = self._aggregator.aggregate(
                connection, site.site_id, self._clock(), limit, wait_ms=_PARTITION_WAIT_MS
            )
            remaining, due = queue.backlog(connection, site.site_id, self._clock())
            return pb.AggregatePendingResponse(
                aggregated=chunk.done.aggregated,
                failed=chunk.done.failed,
                # Events are due and none could be claimed, so other workers are at work on them.
                skipped=0 if chunk.has_more else due,
                remaining=remaining,
                has_more=due > 0,
            )

        return await self._on_site(context, request.site, work)

    async def RetryFailedEvents(
        self, request: pb.RetryFailedEventsRequest, context: Context
    ) -> pb.RetryFailedEventsResponse:
        limit = _limit(request.limit, dead_letters.DEFAULT_LIMIT, dead_letters.MAX_LIMIT)

        def work(connection: Connection, site: Site) -> pb.RetryFailedEventsResponse:
            chunk = dead_letters.requeue(connection, site.site_id, self._clock(), limit)
            return pb.RetryFailedEventsResponse(requeued=chunk.done.requeued, has_more=chunk.has_more)

        return await self._on_site(context, request.site, work)

    async def ListFailedEvents(
        self, request: pb.ListFailedEventsRequest, context: Context
    ) -> pb.ListFailedEventsResponse:
        size, bound = page_size(request.page_size), ("ListFailedEvents", request.site)

        def work(connection: Connection, site: Site) -> pb.ListFailedEventsResponse:
            batch_id, ord_ = self._tokens.open(bound, request.page_token) or (-1, -1)
            rows = dead_letters.list_dead_letters(connection, site.site_id, (batch_id, ord_), size + 1)
            page, token = cut_page(
                rows, size, messages.failed_event, self._tokens, bound, lambda letter: (letter.batch_id, letter.ord)
            )
            return pb.ListFailedEventsResponse(failed_events=page, has_more=bool(token), next_page_token=token)

        return await self._on_site(context, request.site, work)

    async def CompactRollups(self, request: pb.CompactRollupsRequest, context: Context) -> pb.CompactRollupsResponse:
        limit = _limit(request.limit, compact.DEFAULT_LIMIT, compact.MAX_LIMIT)
        if request.interval not in pb.RollupInterval.values():
            raise invalid("interval", Reason.VALUE_UNKNOWN, "must be HOUR or DAY, or absent for both")
        bound = ("CompactRollups", request.site, str(request.interval))

        def work(connection: Connection, site: Site) -> pb.CompactRollupsResponse:
            position = self._position(bound, request.page_token)
            chunk = compact.compact(connection, site.site_id, self._clock(), limit, position)
            return pb.CompactRollupsResponse(
                compacted_shards=chunk.done.deltas,
                compacted_keys=chunk.done.keys,
                has_more=chunk.has_more,
                next_page_token=self._next_token(bound, chunk),
            )

        return await self._on_site(context, request.site, work)

    async def CleanupSite(self, request: pb.CleanupSiteRequest, context: Context) -> pb.CleanupSiteResponse:
        limit = _limit(request.limit, cleanup.DEFAULT_LIMIT, cleanup.MAX_LIMIT)
        asked = _asked_now(request)
        bound = ("CleanupSite", request.site, asked.isoformat() if asked else "", str(request.dry_run))

        def work(connection: Connection, site: Site) -> pb.CleanupSiteResponse:
            # Later chunks keep the time of the first.
            now, *position = self._tokens.open(bound, request.page_token) or (asked or self._clock(),)
            if request.dry_run:
                chunk = cleanup.count_expired(connection, site, now, limit, tuple(position))
            else:
                chunk = cleanup.delete_expired(connection, site.site_id, now, limit)
            return pb.CleanupSiteResponse(
                events=chunk.done.events,
                sessions=chunk.done.sessions,
                hourly_rollups=chunk.done.hourly_rollups,
                daily_rollups=chunk.done.daily_rollups,
                visitors=chunk.done.visitors,
                has_more=chunk.has_more,
                next_page_token=self._next_token(bound, chunk._replace(position=(now, *chunk.position))),
            )

        return await self._on_site(context, request.site, work)

    async def PruneExpired(self, request: pb.PruneExpiredRequest, context: Context) -> pb.PruneExpiredResponse:
        limit = _limit(request.limit, prune.DEFAULT_LIMIT, prune.MAX_LIMIT)

        def work(connection: Connection) -> pb.PruneExpiredResponse:
            chunk = prune.prune(connection, ALL_SITES, self._clock(), limit)
            return pb.PruneExpiredResponse(deleted=chunk.done.deleted, has_more=chunk.has_more)

        return await self._work(context, "", work)

    async def RebuildSite(self, request: pb.RebuildSiteRequest, context: Context) -> pb.RebuildSiteResponse:
        limit = _limit(request.limit, rebuild.DEFAULT_LIMIT, rebuild.MAX_LIMIT)
        bound = ("RebuildSite", request.site)

        def work(connection: Connection, site: Site) -> pb.RebuildSiteResponse:
            position = self._position(bound, request.page_token)
            chunk = rebuild.rebuild(connection, self._aggregator, site.site_id, self._clock(), limit, position)
            return pb.RebuildSiteResponse(
                queued=chunk.done.queued,
                cleared=chunk.done.cleared,
                aggregated=chunk.done.aggregated,
                failed=chunk.done.failed,
                remaining=rebuild.replays_left(connection, site.site_id) if chunk.has_more else 0,
                has_more=chunk.has_more,
                next_page_token=self._next_token(bound, chunk),
            )

        return await self._on_site(context, request.site, work)

    async def DeleteSite(self, request: pb.DeleteSiteRequest, context: Context) -> pb.DeleteSiteResponse:
        limit = _limit(request.limit, delete_site.DEFAULT_LIMIT, delete_site.MAX_LIMIT)
        if request.confirm_slug != request.site:
            message = f"is {quoted(request.confirm_slug)}; give the slug {quoted(request.site)} here too"
            raise invalid("confirm_slug", Reason.CONFIRMATION_REQUIRED, message)

        def work(connection: Connection) -> pb.DeleteSiteResponse:
            chunk = delete_site.delete_site(connection, request.site, self._clock(), limit)
            return pb.DeleteSiteResponse(deleted=chunk.done.deleted, has_more=chunk.has_more)

        return await self._work(context, request.site, work)

    async def EraseVisitor(self, request: pb.EraseVisitorRequest, context: Context) -> pb.EraseVisitorResponse:
        limit = _limit(request.limit, erase.DEFAULT_LIMIT, erase.MAX_LIMIT)
        subject = _subject(request)
        bound = ("EraseVisitor", request.site, *subject)

        def work(connection: Connection, site: Site) -> pb.EraseVisitorResponse:
            position = self._position(bound, request.page_token)
            chunk = erase.erase(connection, self._aggregator, site.site_id, self._clock(), limit, subject, position)
            return pb.EraseVisitorResponse(
                events=chunk.done.events,
                sessions=chunk.done.sessions,
                visitors=chunk.done.visitors,
                has_more=chunk.has_more,
                next_page_token=self._next_token(bound, chunk),
            )

        return await self._on_site(context, request.site, work)

    def _position(self, request: tuple[str, ...], token: str) -> Position:
        return tuple(self._tokens.open(request, token) or ())

    def _next_token(self, request: tuple[str, ...], chunk: Chunk[Any]) -> str:
        return self._tokens.seal(request, chunk.position) if chunk.has_more else ""

    async def stop(self) -> None:
        """Waits for the threads of calls that have ended."""
        await self._chunks.stop()
        await self._short.stop()

    async def _on_site(self, context: Context, slug: str, work: Callable[[Connection, Site], Result]) -> Result:
        """Does `work` for a site, as `_work` does. Raises CallError (NOT_FOUND), also for a site being deleted."""
        return await self._work(context, slug, lambda connection: work(connection, find_site(connection, slug)))

    async def _work(self, context: Context, slug: str, work: Callable[[Connection], Result]) -> Result:
        """Does `work` in a thread of the site's share, on a connection in autocommit. Raises CallError (SITE_BUSY).

        A chunk whose call has ended is rolled back, unless it has been committed.
        """

        def do(stop: Stop) -> Result:
            with self._db.connection() as connection, stop.watching(connection):
                try:
                    return work(connection)
                except SiteBusy:
                    raise site_busy() from None

        return await self._chunks.run(share(slug), context.time_remaining(), do)


def share(site: str = "") -> Caller:
    """Whose share the call under way uses."""
    return Caller(site, caller().key_id)


def _limit(asked: int, default: int, most: int) -> int:
    return bounded("limit", asked, default=default, most=most)


def _asked_now(request: pb.CleanupSiteRequest) -> datetime | None:
    if not request.HasField("now"):
        return None
    try:
        return from_timestamp(request.now)
    except ValueError as error:
        raise invalid("now", Reason.RANGE_INVALID, f"is not a valid time: {error}") from error


def _subject(request: pb.EraseVisitorRequest) -> Subject:
    field = request.WhichOneof("subject")
    value = "" if field is None else str(getattr(request, field))
    if field is None or not value:
        raise invalid(field or "visitor_id", Reason.FIELD_REQUIRED, "is empty; name a visitor_id or a user_id")
    if "\0" in value:
        raise invalid(field, Reason.TEXT_HAS_NUL, "holds a NUL character; remove it")
    return Subject(field, value)
