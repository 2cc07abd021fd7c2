"""AdminService: authenticate, open a transaction, call the function that does it."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, TypeVar

import grpc
import sqlalchemy as sa
from footfall.admin.v1 import admin_pb2, admin_pb2_grpc

from admin_svc import api_keys, site_settings, sites
from admin_svc.aggregate import Aggregator
from admin_svc.maintenance import Maintenance
from common.clock import Clock
from common.db import Database
from common.errors import Reason, invalid
from common.keys import KeyKind, KeyRing, bearer, new_key
from common.page_tokens import PageTokens
from common.paging import cut_page, page_size

SERVICE = "footfall.admin.v1.AdminService"

_HOW_TO_AUTHENTICATE = "an admin key as authorization: Bearer <key>"
_MAX_GRACE = timedelta(days=30)
_MAX_TTL = timedelta(days=36_500)

Context = grpc.aio.ServicerContext[Any, Any]
Request = TypeVar("Request")
Result = TypeVar("Result")


class AdminServicer(admin_pb2_grpc.AdminServiceServicer):
    """Sites, keys and maintenance; see protos/footfall/admin/v1/admin.proto."""

    def __init__(self, db: Database, keys: KeyRing, tokens: PageTokens, aggregator: Aggregator, clock: Clock) -> None:
        self._db = db
        self._keys = keys
        self._tokens = tokens
        self._maintenance = Maintenance(db, tokens, aggregator, clock)
        self._clock = clock
        # Threads of their own: a page that waits for a lane must not keep a key from being revoked.
        self._pages = ThreadPoolExecutor(2, thread_name_prefix="pages")

    async def CreateSite(self, request: admin_pb2.CreateSiteRequest, context: Context) -> admin_pb2.CreateSiteResponse:
        await self._authenticate(context)

        def create(connection: sa.Connection) -> admin_pb2.CreateSiteResponse:
            made = sites.create_site(connection, request, self._clock())
            if made is None:
                raise sites.site_exists(request.slug)
            row, key = made
            return admin_pb2.CreateSiteResponse(site=sites.to_proto(row), write_key=key)

        return await self._transact(create)

    async def EnsureSite(self, request: admin_pb2.EnsureSiteRequest, context: Context) -> admin_pb2.EnsureSiteResponse:
        await self._authenticate(context)

        def ensure(connection: sa.Connection) -> admin_pb2.EnsureSiteResponse:
            made = sites.create_site(connection, request, self._clock())
            if made is None:
                row = sites.get_site(connection, request.slug)
                return admin_pb2.EnsureSiteResponse(site=sites.to_proto(row))
            row, key = made
            return admin_pb2.EnsureSiteResponse(site=sites.to_proto(row), write_key=key, created=True)

        return await self._transact(ensure)

    async def GetSite(self, request: admin_pb2.GetSiteRequest, context: Context) -> admin_pb2.GetSiteResponse:
        await self._authenticate(context)
        row = await self._transact(lambda connection: sites.get_site(connection, request.site))
        return admin_pb2.GetSiteResponse(site=sites.to_proto(row))

    async def ListSites(self, request: admin_pb2.ListSitesRequest, context: Context) -> admin_pb2.ListSitesResponse:
        await self._authenticate(context)
        size, bound = page_size(request.page_size), ("ListSites",)

        def read(connection: sa.Connection) -> admin_pb2.ListSitesResponse:
            after = self._tokens.open(bound, request.page_token) or [""]
            rows = sites.list_sites(connection, str(after[0]), size + 1)
            page, token = cut_page(rows, size, sites.to_proto, self._tokens, bound, lambda row: [row.slug])
            return admin_pb2.ListSitesResponse(sites=page, has_more=bool(token), next_page_token=token)

        return await self._transact(read)

    async def UpdateSite(self, request: admin_pb2.UpdateSiteRequest, context: Context) -> admin_pb2.UpdateSiteResponse:
        await self._authenticate(context)
        row = await self._transact(
            lambda connection: sites.update_site(connection, request.site, request.update_mask.paths, self._clock()),
        )
        return admin_pb2.UpdateSiteResponse(site=sites.to_proto(row))

    async def RotateWriteKey(
        self, request: admin_pb2.RotateWriteKeyRequest, context: Context
    ) -> admin_pb2.RotateWriteKeyResponse:
        await self._authenticate(context)
        grace = timedelta(microseconds=site_settings.micros_of("grace_period", request.grace_period))
        if not timedelta(0) <= grace <= _MAX_GRACE:
            raise invalid("grace_period", Reason.VALUE_OUT_OF_RANGE, f"must be 0 to {_MAX_GRACE.days} days")

        def rotate(connection: sa.Connection) -> str:
            site = sites.get_site(connection, request.site)
            return api_keys.rotate_write_key(connection, site.site_id, self._clock(), grace)

        return admin_pb2.RotateWriteKeyResponse(write_key=await self._transact(rotate))

    async def CreateApiKey(
        self, request: admin_pb2.CreateApiKeyRequest, context: Context
    ) -> admin_pb2.CreateApiKeyResponse:
        await self._authenticate(context)
        if int(request.kind) not in tuple(KeyKind):
            raise invalid("kind", Reason.VALUE_UNKNOWN, "must be WRITE, READ or ADMIN")
        kind = KeyKind(request.kind)
        if kind is KeyKind.WRITE and not request.site:
            raise invalid("site", Reason.FIELD_REQUIRED, "is empty; a write key is for one site")
        if kind is KeyKind.ADMIN and request.site:
            raise invalid("site", Reason.SITE_NOT_ALLOWED_HERE, "must be empty; an admin key is for all sites")
        name = site_settings.check_name("name", request.name)
        ttl = None
        if request.HasField("ttl"):
            ttl = timedelta(microseconds=site_settings.micros_of("ttl", request.ttl))
            if not timedelta(0) < ttl <= _MAX_TTL:
                raise invalid("ttl", Reason.VALUE_OUT_OF_RANGE, f"must be more than 0 and at most {_MAX_TTL.days} days")

        def create(connection: sa.Connection) -> admin_pb2.CreateApiKeyResponse:
            site_id = sites.get_site(connection, request.site).site_id if request.site else None
            key = new_key(kind)
            key_id = api_keys.add_key(connection, kind, site_id, name, self._clock(), key, ttl)
            row = api_keys.get_key(connection, key_id)
            return admin_pb2.CreateApiKeyResponse(api_key=api_keys.to_proto(row), key=key)

        return await self._transact(create)

    async def ListApiKeys(
        self, request: admin_pb2.ListApiKeysRequest, context: Context
    ) -> admin_pb2.ListApiKeysResponse:
        await self._authenticate(context)
        size, bound = page_size(request.page_size), ("ListApiKeys", request.site)

        def read(connection: sa.Connection) -> admin_pb2.ListApiKeysResponse:
            after = self._tokens.open(bound, request.page_token) or [0]
            site_id = sites.get_site(connection, request.site).site_id if request.site else None
            rows = api_keys.list_keys(connection, site_id, int(after[0]), self._clock(), size + 1)
            page, token = cut_page(rows, size, api_keys.to_proto, self._tokens, bound, lambda row: [row.key_id])
            return admin_pb2.ListApiKeysResponse(api_keys=page, has_more=bool(token), next_page_token=token)

        return await self._transact(read)

    async def RevokeApiKey(
        self, request: admin_pb2.RevokeApiKeyRequest, context: Context
    ) -> admin_pb2.RevokeApiKeyResponse:
        await self._authenticate(context)
        row = await self._transact(lambda connection: api_keys.end_key(connection, request.id, self._clock()))
        return admin_pb2.RevokeApiKeyResponse(api_key=api_keys.to_proto(row))

    async def AggregatePending(
        self, request: admin_pb2.AggregatePendingRequest, context: Context
    ) -> admin_pb2.AggregatePendingResponse:
        await self._authenticate(context)
        return await self._page(self._maintenance.aggregate_pending, request)

    async def RebuildSite(
        self, request: admin_pb2.RebuildSiteRequest, context: Context
    ) -> admin_pb2.RebuildSiteResponse:
        await self._authenticate(context)
        return await self._page(self._maintenance.rebuild_site, request)

    async def RetryFailedEvents(
        self, request: admin_pb2.RetryFailedEventsRequest, context: Context
    ) -> admin_pb2.RetryFailedEventsResponse:
        await self._authenticate(context)
        return await self._page(self._maintenance.retry_failed_events, request)

    async def ListFailedEvents(
        self, request: admin_pb2.ListFailedEventsRequest, context: Context
    ) -> admin_pb2.ListFailedEventsResponse:
        await self._authenticate(context)
        return await self._page(self._maintenance.list_failed_events, request)

    async def CompactRollups(
        self, request: admin_pb2.CompactRollupsRequest, context: Context
    ) -> admin_pb2.CompactRollupsResponse:
        await self._authenticate(context)
        return await self._page(self._maintenance.compact_rollups, request)

    async def CleanupSite(
        self, request: admin_pb2.CleanupSiteRequest, context: Context
    ) -> admin_pb2.CleanupSiteResponse:
        await self._authenticate(context)
        return await self._page(self._maintenance.cleanup_site, request)

    async def PruneExpired(
        self, request: admin_pb2.PruneExpiredRequest, context: Context
    ) -> admin_pb2.PruneExpiredResponse:
        await self._authenticate(context)
        return await self._page(self._maintenance.prune_expired, request)

    async def GetStatus(self, request: admin_pb2.GetStatusRequest, context: Context) -> admin_pb2.GetStatusResponse:
        await self._authenticate(context)
        return await self._page(self._maintenance.get_status, request)

    async def DeleteSite(self, request: admin_pb2.DeleteSiteRequest, context: Context) -> admin_pb2.DeleteSiteResponse:
        await self._authenticate(context)
        return await self._page(self._maintenance.delete_site, request)

    async def EraseVisitor(
        self, request: admin_pb2.EraseVisitorRequest, context: Context
    ) -> admin_pb2.EraseVisitorResponse:
        await self._authenticate(context)
        return await self._page(self._maintenance.erase_visitor, request)

    async def _page(self, work: Callable[[Request], Result], request: Request) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._pages, work, request)

    async def _authenticate(self, context: Context) -> None:
        await self._keys.authenticate(bearer(context), _HOW_TO_AUTHENTICATE, KeyKind.ADMIN)

    async def _transact(self, work: Callable[[sa.Connection], Result]) -> Result:
        """Does `work` in one transaction, off the event loop."""

        def transact() -> Result:
            with self._db.transaction() as connection:
                return work(connection)

        return await asyncio.to_thread(transact)
