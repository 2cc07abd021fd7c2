"""Pruning: dedupe keys that have expired leave, a page at a time, site after site."""

from datetime import datetime
from typing import Any, NamedTuple

import psycopg

DEFAULT_LIMIT = 5_000
MAX_LIMIT = 50_000
_SITES_A_PAGE = 100

# The sites with an expired key: one index probe each.
_SITES = """
SELECT s.site_id FROM sites s
WHERE EXISTS (SELECT FROM ingest_dedupes d WHERE d.site_id = s.site_id AND d.expires_at <= %(now)s)
ORDER BY s.site_id LIMIT %(sites)s
"""

# Deletes a site's expired keys, the longest expired first. A key that ingest is about to arm again is passed over, for
# waiting for it could make the two wait for each other.
_DELETE = """
DELETE FROM ingest_dedupes WHERE site_id = %(site_id)s AND ctid = ANY(ARRAY(
    SELECT ctid FROM ingest_dedupes WHERE site_id = %(site_id)s AND expires_at <= %(now)s
    ORDER BY expires_at LIMIT %(rows)s FOR UPDATE SKIP LOCKED
))
"""


class Page(NamedTuple):
    """What one call did."""

    deleted: int
    has_more: bool


def run_once(connection: psycopg.Connection[Any], now: datetime, limit: int) -> Page:
    """Deletes up to `limit` keys that have expired at `now`; `connection` is in autocommit. Raises a DatabaseFault."""
    deleted = 0
    for site_id in _sites(connection, now, _SITES_A_PAGE):
        parameters = {"site_id": site_id, "now": now, "rows": limit - deleted}
        deleted += connection.execute(_DELETE, parameters).rowcount
        if deleted == limit:
            break
    # A page that deleted nothing has only found keys in use: the next run finds them again.
    return Page(deleted, has_more=deleted > 0 and bool(_sites(connection, now, 1)))


def _sites(connection: psycopg.Connection[Any], now: datetime, sites: int) -> list[int]:
    return [row[0] for row in connection.execute(_SITES, {"now": now, "sites": sites})]
