"""The RPCs of AdminService for sites, keys and status. Each is one transaction."""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Any

from footfall.admin.v1 import admin_pb2 as pb

from admin_svc import messages, status
from admin_svc.maintenance_rpcs import Connection, Context, MaintenanceRpcs, Result, share
from admin_svc.schedule.runs import ALL_SITES, last_runs
from admin_svc.sites import api_keys, settings, sites
from common.calls.stopping import Stop
from common.errors import Reason, invalid, quoted
from common.keys.key import KeyKind, new_key
from common.paging import cut_page, page_size
from common.sites import Site, find_site

SERVICE = "footfall.admin.v1.AdminService"

_MAX_GRACE = timedelta(days=30)
_MAX_TTL = timedelta(days=36_500)


class AdminServicer(MaintenanceRpcs):
    """All RPCs; see protos/footfall/admin/v1/admin.proto."""

    async def CreateSite(self, request: pb.CreateSiteRequest, context: Context) -> pb.CreateSiteResponse:

        def create(connection: Connection) -> pb.CreateSiteResponse:
            made = _create(connection, request, self._clock())
            if made is None:
                raise sites.site_exists(request.slug)
            site, key = made
            return pb.CreateSiteResponse(site=messages.site(site), write_key=key)

        return await self._transact(context, create)

    async def EnsureSite(self, request: pb.EnsureSiteRequest, context: Context) -> pb.EnsureSiteResponse:

        def ensure(connection: Connection) -> pb.EnsureSiteResponse:
            made = _create(connection, request, self._clock())
            if made is None:
                return pb.EnsureSiteResponse(site=messages.site(find_site(connection, request.slug)))
            site, key = made
            return pb.EnsureSiteResponse(site=messages.site(site), write_key=key, created=True)

        return await self._transact(context, ensure)

    async def GetSite(self, request: pb.GetSiteRequest, context: Context) -> pb.GetSiteResponse:
        site = await self._transact(context, lambda connection: find_site(connection, request.site, or_deleting=True))
        return pb.GetSiteResponse(site=messages.site(site))

    async def ListSites(self, request: pb.ListSitesRequest, context: Context) -> pb.ListSitesResponse:
        size, bound = page_size(request.page_size), ("ListSites",)

        def read(connection: Connection) -> pb.ListSitesResponse:
            [after] = self._tokens.open(bound, request.page_token) or ("",)
            rows = sites.list_sites(connection, after, size + 1)
            page, token = cut_page(rows, size, messages.site, self._tokens, bound, lambda site: (site.slug,))
            return pb.ListSitesResponse(sites=page, has_more=bool(token), next_page_token=token)

        return await self._transact(context, read)

    async def UpdateSite(self, request: pb.UpdateSiteRequest, context: Context) -> pb.UpdateSiteResponse:
        slug = settings.check_slug(request.site.slug, "site.slug")
        columns = _masked_columns(request.site, request.update_mask.paths)
        site = await self._transact(
            context, lambda connection: sites.update_site(connection, slug, columns, self._clock())
        )
        return pb.UpdateSiteResponse(site=messages.site(site))

    async def RotateWriteKey(self, request: pb.RotateWriteKeyRequest, context: Context) -> pb.RotateWriteKeyResponse:
        grace = timedelta(microseconds=messages.micros_of("grace_period", request.grace_period))
        if not timedelta(0) <= grace <= _MAX_GRACE:
            raise invalid("grace_period", Reason.VALUE_OUT_OF_RANGE, f"must be 0 to {_MAX_GRACE.days} days")

        def rotate(connection: Connection) -> str:
            # Also for a site that is being deleted, so that a key that has leaked can be ended at once.
            site = find_site(connection, request.site, or_deleting=True)
            return api_keys.rotate_write_key(connection, site.site_id, self._clock(), grace)

        return pb.RotateWriteKeyResponse(write_key=await self._transact(context, rotate))

    async def CreateApiKey(self, request: pb.CreateApiKeyRequest, context: Context) -> pb.CreateApiKeyResponse:
        kind, name, ttl = _key_kind(request), settings.check_name("name", request.name), _ttl(request)

        def create(connection: Connection) -> pb.CreateApiKeyResponse:
            site_id = find_site(connection, request.site).site_id if request.site else None
            key = new_key(kind)
            key_id = api_keys.add_key(connection, kind, site_id, name, self._clock(), key, ttl)
            return pb.CreateApiKeyResponse(api_key=messages.api_key(api_keys.get_key(connection, key_id)), key=key)

        return await self._transact(context, create)

    async def ListApiKeys(self, request: pb.ListApiKeysRequest, context: Context) -> pb.ListApiKeysResponse:
        size, bound = page_size(request.page_size), ("ListApiKeys", request.site)

        def read(connection: Connection) -> pb.ListApiKeysResponse:
            [after] = self._tokens.open(bound, request.page_token) or (0,)
            site_id = find_site(connection, request.site).site_id if request.site else None
            rows = api_keys.list_keys(connection, site_id, after, self._clock(), size + 1)
            page, token = cut_page(rows, size, messages.api_key, self._tokens, bound, lambda key: (key.key_id,))
            return pb.ListApiKeysResponse(api_keys=page, has_more=bool(token), next_page_token=token)

        return await self._transact(context, read)

    async def RevokeApiKey(self, request: pb.RevokeApiKeyRequest, context: Context) -> pb.RevokeApiKeyResponse:
        key = await self._transact(context, lambda connection: api_keys.end_key(connection, request.id, self._clock()))
        return pb.RevokeApiKeyResponse(api_key=messages.api_key(key))

    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> pb.GetStatusResponse:
        size, bound = page_size(request.page_size), ("GetStatus", request.site)

        def read(stop: Stop) -> pb.GetStatusResponse:
            [after] = self._tokens.open(bound, request.page_token) or ("",)
            with self._db.snapshot() as connection, stop.watching(connection):
                stop.bound_statements(connection)
                if request.site:
                    find_site(connection, request.site)
                states = status.site_states(connection, request.site, after, size + 1)
                runs = last_runs(connection, [ALL_SITES, *(state.site_id for state in states)])
                tables = status.table_states(connection)
            now = self._clock()
            page, token = cut_page(
                states,
                size,
                lambda state: messages.site_state(state, runs[state.site_id], now),
                self._tokens,
                bound,
                lambda state: (state.slug,),
            )
            return pb.GetStatusResponse(
                sites=page,
                tables=map(messages.table_state, tables),
                jobs=map(messages.job_run, runs[ALL_SITES]),
                has_more=bool(token),
                next_page_token=token,
            )

        return await self._short.run(share(), context.time_remaining(), read)

    async def _transact(self, context: Context, work: Callable[[Connection], Result]) -> Result:
        """Does `work` in one transaction, in a thread of the key's share."""

        def transact(stop: Stop) -> Result:
            with self._db.transaction() as connection, stop.watching(connection):
                stop.bound_statements(connection)
                return work(connection)

        return await self._short.run(share(), context.time_remaining(), transact)


def _create(
    connection: Connection, request: pb.CreateSiteRequest | pb.EnsureSiteRequest, now: datetime
) -> tuple[Site, str] | None:
    slug = settings.check_slug(request.slug)
    columns = {
        "name": settings.check_name("name", request.name) or slug,
        **settings.to_columns(messages.plain_settings(request.settings, settings.FIELDS, "settings")),
    }
    write_key = settings.check_write_key(request.write_key) if request.write_key else None
    return sites.create_site(connection, slug, columns, write_key, now)


def _masked_columns(site: pb.Site, paths: Iterable[str]) -> dict[str, Any]:
    """The columns and values of the fields that the update mask names. Raises CallError."""
    columns: dict[str, Any] = {}
    for path in paths:
        parent, _, field = path.partition(".")
        if path == "name":
            columns["name"] = settings.check_name("site.name", site.name) or site.slug
        elif path == "status":
            if site.status not in (pb.SITE_STATUS_ACTIVE, pb.SITE_STATUS_DISABLED):
                raise invalid("site.status", Reason.VALUE_UNKNOWN, "must be ACTIVE or DISABLED")
            columns["status"] = site.status
        elif path == "settings" or (parent == "settings" and field in settings.FIELDS):
            fields = [field] if field else settings.FIELDS
            plain = messages.plain_settings(site.settings, fields, "site.settings")
            columns |= settings.to_columns(plain, prefix="site.settings")
        else:
            message = f"names {quoted(path)}; allowed are name, status, settings[.field]"
            raise invalid("update_mask", Reason.UPDATE_MASK_INVALID, message)
    if not columns:
        raise invalid("update_mask", Reason.FIELD_REQUIRED, "is empty; name the fields to change")
    return columns


def _key_kind(request: pb.CreateApiKeyRequest) -> KeyKind:
    if int(request.kind) not in tuple(KeyKind):
        raise invalid("kind", Reason.VALUE_UNKNOWN, "must be WRITE, READ or ADMIN")
    kind = KeyKind(request.kind)
    if kind is KeyKind.WRITE and not request.site:
        raise invalid("site", Reason.FIELD_REQUIRED, "is empty; a write key is for one site")
    if kind is KeyKind.ADMIN and request.site:
        raise invalid("site", Reason.SITE_NOT_ALLOWED_HERE, "must be empty; an admin key is for all sites")
    return kind


def _ttl(request: pb.CreateApiKeyRequest) -> timedelta | None:
    if not request.HasField("ttl"):
        return None
    ttl = timedelta(microseconds=messages.micros_of("ttl", request.ttl))
    if not timedelta(0) < ttl <= _MAX_TTL:
        raise invalid("ttl", Reason.VALUE_OUT_OF_RANGE, f"must be more than 0 and at most {_MAX_TTL.days} days")
    return ttl
