"""The rows of sites, read without the product: what a deletion or an erasure must leave, and what it must not."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import psycopg

from admin_svc.sites.settings import FIELDS, LIST_FIELDS, NUMBER_FIELDS, to_columns
from admin_svc.sites.sites import create_site
from common.db import plain_url
from common.tables import metadata
from tests.support.footfall_site import FootfallSite
from tests.support.suite import Suite

TENANT_TABLES = [table.name for table in metadata.sorted_tables if "site_id" in table.c]
"""Every table that has rows of sites, `sites` among them."""


@contextmanager
def opened(suite: Suite) -> Iterator[psycopg.Connection[Any]]:
    """The suite's database, in autocommit."""
    with psycopg.connect(plain_url(suite.database_url), autocommit=True, options="-c timezone=UTC") as connection:
        yield connection


def site_id_of(connection: psycopg.Connection[Any], site: FootfallSite) -> int:
    """The number the site's rows carry."""
    [(site_id,)] = connection.execute("SELECT site_id FROM sites WHERE slug = %s", (site.slug,)).fetchall()
    return int(site_id)


def rows_of(connection: psycopg.Connection[Any], site_id: int, *left_out: str) -> dict[str, list[str]]:
    """Every row of the site by table, as Postgres writes it. The last use of keys, stored at any time, is left out."""
    texts = dict.fromkeys(TENANT_TABLES, "t::text") | {"api_keys": "(to_jsonb(t) - 'last_used_at')::text"}
    return {
        table: [
            row[0]
            for row in connection.execute(
                f"SELECT {texts[table]} FROM {table} t WHERE site_id = %s ORDER BY 1", (site_id,)
            )
        ]
        for table in TENANT_TABLES
        if table not in left_out
    }


def tables_with(connection: psycopg.Connection[Any], text: str) -> list[str]:
    """The tables of which any row of any site holds the text, in whatever column."""
    return [
        table.name
        for table in metadata.sorted_tables
        if connection.execute(f"SELECT FROM {table.name} t WHERE position(%s IN t::text) > 0 LIMIT 1", (text,)).rowcount
    ]


def make_site(connection: psycopg.Connection[Any], slug: str) -> None:
    """A site with default settings, made without a running service."""
    absent: dict[str, Any] = {**dict.fromkeys(FIELDS), **dict.fromkeys(NUMBER_FIELDS, 0)}
    absent |= {field: [] for field in LIST_FIELDS}
    assert create_site(connection, slug, {"name": slug, **to_columns(absent)}, None, datetime.now(UTC))
