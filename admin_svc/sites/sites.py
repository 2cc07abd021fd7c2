"""Sites are created, listed and changed. Functions run in the caller's transaction and never commit."""

from datetime import datetime
from typing import Any

import grpc
import psycopg
from psycopg.rows import class_row

from admin_svc.sites.api_keys import add_key
from common.errors import CallError, Reason, quoted, site_not_found
from common.keys.key import KeyKind, new_key
from common.sites import ACTIVE, COLUMNS, DELETING, Site

# Adds a site unless its slug is taken. The columns are those of `values`.
_INSERT = """
INSERT INTO sites AS s ({columns}) VALUES ({values}) ON CONFLICT (slug) DO NOTHING RETURNING {site}
"""

# Changes a site, but not one that is being deleted: it must not become active again, and `updated_at` must not change,
# because the end of the deletion depends on it.
_UPDATE = """
UPDATE sites s SET {assignments} WHERE slug = %(slug)s AND status <> {deleting} RETURNING {site}
"""

# A page of sites after a slug, in the order of the slugs' bytes.
_LIST = f"SELECT {COLUMNS} FROM sites s WHERE s.slug > %(after)s ORDER BY s.slug LIMIT %(rows)s"

Connection = psycopg.Connection[Any]


def create_site(
    connection: Connection, slug: str, values: dict[str, Any], write_key: str | None, now: datetime
) -> tuple[Site, str] | None:
    """Creates a site and returns it with its write key, which is generated unless one is given. None = the slug is
    taken.

    `values` are columns of `sites`: the name and every setting. Raises CallError for a write key in use.
    """
    row = {"slug": slug, "status": ACTIVE, "created_at": now, "updated_at": now, **values}
    statement = _INSERT.format(
        columns=", ".join(row), values=", ".join(f"%({column})s" for column in row), site=COLUMNS
    )
    site = _one(connection, statement, row)
    if site is None:
        return None
    key = write_key or new_key(KeyKind.WRITE)
    add_key(connection, KeyKind.WRITE, site.site_id, "first", now, key, None)
    return site, key


def list_sites(connection: Connection, after: str, count: int) -> list[Site]:
    """Up to `count` sites with slugs after `after`, ascending by bytes. Sites that are being deleted are included."""
    with connection.cursor(row_factory=class_row(Site)) as cursor:
        return cursor.execute(_LIST, {"after": after, "rows": count}).fetchall()


def update_site(connection: Connection, slug: str, values: dict[str, Any], now: datetime) -> Site:
    """Changes the columns and returns the changed site. Raises CallError (NOT_FOUND), also for a site that is being
    deleted."""
    row = {**values, "updated_at": now}
    statement = _UPDATE.format(
        assignments=", ".join(f"{column} = %({column})s" for column in row), deleting=DELETING, site=COLUMNS
    )
    site = _one(connection, statement, {**row, "slug": slug})
    if site is None:
        raise site_not_found(slug)
    return site


def site_exists(slug: str) -> CallError:
    """ALREADY_EXISTS for a slug that a site has."""
    return CallError(
        grpc.StatusCode.ALREADY_EXISTS,
        Reason.SITE_EXISTS,
        f"there is a site {quoted(slug)}; EnsureSite returns it, UpdateSite changes it",
        "slug",
    )


def _one(connection: Connection, statement: str, parameters: dict[str, Any]) -> Site | None:
    with connection.cursor(row_factory=class_row(Site)) as cursor:
        return cursor.execute(statement, parameters).fetchone()
