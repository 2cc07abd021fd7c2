"""Pruning: deletes expired dedupe keys, site after site."""

from datetime import datetime
from typing import Any, NamedTuple

import psycopg

from admin_svc.chunk import Chunk

DEFAULT_LIMIT = 5_000
MAX_LIMIT = 50_000
_SITES_A_CHUNK = 100

# The sites with an expired key: one index probe per site.
_SITES = """
SELECT s.site_id FROM sites s
WHERE EXISTS (SELECT FROM ingest_dedupes d WHERE d.site_id = s.site_id AND d.expires_at <= %(now)s)
ORDER BY s.site_id LIMIT %(sites)s
"""

# Deletes a site's expired keys, the longest expired first. A key that ingest is about to reserve again is passed over,
# because waiting for it could deadlock with ingest.
_DELETE = """
DELETE FROM ingest_dedupes WHERE site_id = %(site_id)s AND ctid = ANY(ARRAY(
    SELECT ctid FROM ingest_dedupes WHERE site_id = %(site_id)s AND expires_at <= %(now)s
    ORDER BY expires_at LIMIT %(rows)s FOR UPDATE SKIP LOCKED
))
"""


class Pruned(NamedTuple):
    """Numbers of rows, by what was done with them."""

    deleted: int = 0


def prune(connection: psycopg.Connection[Any], _site_id: int, now: datetime, limit: int) -> Chunk[Pruned]:
    """Deletes up to `limit` keys of any sites that have expired at `now`, those with `expires_at = now` included.

    `connection` is in autocommit. Raises the errors of DatabaseFault.
    """
    deleted = 0
    with connection.transaction():
        for site_id in _sites(connection, now, _SITES_A_CHUNK):
            parameters = {"site_id": site_id, "now": now, "rows": limit - deleted}
            deleted += connection.execute(_DELETE, parameters).rowcount
            if deleted == limit:
                break
        # A chunk that deleted nothing has found only keys that ingest has locked. They are left to the next run.
        return Chunk(Pruned(deleted), has_more=deleted > 0 and bool(_sites(connection, now, 1)))


def _sites(connection: psycopg.Connection[Any], now: datetime, sites: int) -> list[int]:
    return [row[0] for row in connection.execute(_SITES, {"now": now, "sites": sites})]
