"""The life of a site: made, found, listed, changed. Functions take a transaction and never commit."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import grpc
import sqlalchemy as sa
from footfall.admin.v1 import admin_pb2
from sqlalchemy.dialects.postgresql import insert

from admin_svc import site_settings
from admin_svc.api_keys import add_key
from common.errors import CallError, Reason, invalid, site_not_found
from common.keys import KeyKind, new_key
from common.sites import ACTIVE, DELETING
from common.tables import sites
from common.timestamps import to_timestamp

Row = sa.Row[Any]


def create_site(
    connection: sa.Connection,
    request: admin_pb2.CreateSiteRequest | admin_pb2.EnsureSiteRequest,
    now: datetime,
) -> tuple[Row, str] | None:
    """The new site and its write key; None when the slug is taken.

    Raises CallError for a field that is wrong and for a write key in use.
    """
    slug = site_settings.check_slug("slug", request.slug)
    values = {
        "slug": slug,
        "name": site_settings.check_name("name", request.name) or slug,
        "status": ACTIVE,
        "created_at": now,
        "updated_at": now,
        **site_settings.to_columns(request.settings),
    }
    key = site_settings.check_write_key(request.write_key) if request.write_key else new_key(KeyKind.WRITE)
    statement = insert(sites).values(values).on_conflict_do_nothing(index_elements=["slug"])
    row = connection.execute(statement.returning(sites)).one_or_none()
    if row is None:
        return None
    add_key(connection, KeyKind.WRITE, row.site_id, "first", now, key, None)
    return row, key


def get_site(connection: sa.Connection, slug: str) -> Row:
    """One site. Raises CallError (NOT_FOUND)."""
    row = None if "\0" in slug else connection.execute(sa.select(sites).where(sites.c.slug == slug)).one_or_none()
    if row is None:
        raise site_not_found(slug)
    return row


def list_sites(connection: sa.Connection, after: str, count: int) -> list[Row]:
    """Up to `count` sites with slugs over `after`, ascending by bytes."""
    return list(connection.execute(sa.select(sites).where(sites.c.slug > after).order_by(sites.c.slug).limit(count)))


def update_site(connection: sa.Connection, site: admin_pb2.Site, paths: Sequence[str], now: datetime) -> Row:
    """Takes the masked fields over; returns the site as it is then. Raises CallError: a site that is being deleted
    is not found, for nothing may bring it back or make it wait longer."""
    row = connection.execute(
        sa.update(sites)
        .where(sites.c.slug == site_settings.check_slug("site.slug", site.slug), sites.c.status != DELETING)
        .values(**_masked(site, paths), updated_at=now)
        .returning(sites)
    ).one_or_none()
    if row is None:
        raise site_not_found(site.slug)
    return row


def site_exists(slug: str) -> CallError:
    """ALREADY_EXISTS for a slug somebody has."""
    return CallError(
        grpc.StatusCode.ALREADY_EXISTS,
        Reason.SITE_EXISTS,
        f"there is a site {slug!r}; EnsureSite returns it, UpdateSite changes it",
        "slug",
    )


def to_proto(row: Row) -> admin_pb2.Site:
    """What is told of a site."""
    return admin_pb2.Site(
        slug=row.slug,
        name=row.name,
        status=row.status,
        settings=site_settings.to_proto(row),
        create_time=to_timestamp(row.created_at),
        update_time=to_timestamp(row.updated_at),
    )


def _masked(site: admin_pb2.Site, paths: Sequence[str]) -> dict[str, Any]:
    if not paths:
        raise invalid("update_mask", Reason.FIELD_REQUIRED, "is empty; name the fields to change")
    columns: dict[str, Any] = {}
    for path in paths:
        parent, _, field = path.partition(".")
        if path == "name":
            columns["name"] = site_settings.check_name("site.name", site.name) or site.slug
        elif path == "status":
            if site.status not in (admin_pb2.SITE_STATUS_ACTIVE, admin_pb2.SITE_STATUS_DISABLED):
                raise invalid("site.status", Reason.VALUE_UNKNOWN, "must be ACTIVE or DISABLED")
            columns["status"] = site.status
        elif path == "settings":
            columns |= site_settings.to_columns(site.settings, prefix="site.settings")
        elif parent == "settings" and field in site_settings.FIELDS:
            columns |= site_settings.to_columns(site.settings, [field], prefix="site.settings")
        else:
            raise invalid(
                "update_mask",
                Reason.UPDATE_MASK_INVALID,
                f"names {path!r}; allowed are name, status, settings[.field]",
            )
    return columns
