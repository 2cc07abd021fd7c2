"""Deleting a site with everything it has, chunk by chunk.

The first chunk marks the site: from then on it takes no events, answers no reports, and no worker aggregates or
compacts it. Then its rows are deleted, a bounded number a chunk. The row of the site itself goes last and not at once:
an ingest process may know a write key for up to 4 s without asking, and a call it has let in may wait in its queue.
What such a call still stores is deleted by the chunks of those seconds, so no row is left that belongs to no site.
"""

from datetime import datetime, timedelta
from typing import Any, NamedTuple

import psycopg

from admin_svc.chunk import Chunk
from admin_svc.site_lock import hold
from common.errors import site_not_found
from common.sites import DELETING, find_site

DEFAULT_LIMIT = 5_000
MAX_LIMIT = 20_000
QUIET = timedelta(seconds=10)
"""How long after the mark a process may still store events of the site: 4 s of cached keys, and its queue."""

# Marks the site, unless it is marked.
_MARK = f"""
UPDATE sites SET status = {DELETING}, updated_at = %(now)s WHERE site_id = %(site_id)s AND status <> {DELETING}
"""

# When it was marked: nothing else changes a marked site.
_MARKED_AT = f"SELECT updated_at FROM sites WHERE site_id = %(site_id)s AND status = {DELETING}"

_ROWS = {
    "pending_batches": "site_id, partition, received_at, batch_id, first_ord",
    "failed_events": "site_id, batch_id, ord",
    "events": "site_id, batch_id, ord",
    "sessions": "site_id, visitor_no, session_id, started_at",
    "visitors": "site_id, visitor_no",
    "rollup_shards WHERE delta_no > 0": "site_id, dimension, bucket_start",
    "rollup_shards WHERE delta_no = 0": "site_id, interval, dimension, bucket_start, key",
    "ingest_dedupes": "site_id, dedupe_key",
    "erased_hours": "site_id, hour",
    "job_runs": "site_id, job, started_at",
    "rebuilds": "site_id",
    "visitor_counters": "site_id",
    "api_keys": "site_id, key_id",
}
"""All rows of a site, by table, in the order in which they are deleted, and the index that finds them. Pending batches
come first, so that none names events that are gone. Keys come last, so that a sender is told that the site is closed
and not that its key is unknown."""


# Deletes the first rows of the site in one table. Sorted, so that the index is read from its left end whatever the
# planner expects of the site's share of the table.
def _delete(rows: str, keys: str) -> str:
    table, _, condition = rows.partition(" WHERE ")
    only = f"AND {condition}" if condition else ""
    return f"""
    DELETE FROM {table} WHERE site_id = %(site_id)s AND ctid = ANY(ARRAY(
        SELECT ctid FROM {table} WHERE site_id = %(site_id)s {only} ORDER BY {keys} LIMIT %(rows)s
    ))
    """


_DELETE = [_delete(rows, keys) for rows, keys in _ROWS.items()]

_DELETE_SITE = "DELETE FROM sites WHERE site_id = %(site_id)s"

Connection = psycopg.Connection[Any]


class Deleted(NamedTuple):
    """Rows, by what was done with them; that of the site itself is not counted."""

    deleted: int = 0


def delete_site(connection: Connection, slug: str, now: datetime, limit: int) -> Chunk[Deleted]:
    """Deletes up to `limit` rows of the site; has_more is whether the site is still there.

    `connection` is in autocommit. Raises CallError (NOT_FOUND) when there is no such site, or no more; and a
    DatabaseFault, after which the site may be marked but nothing is half-deleted.
    """
    site_id = _mark(connection, slug, now)
    with connection.transaction():
        hold(connection, site_id)
        # Asked again: another call may have deleted it while this one waited.
        row = connection.execute(_MARKED_AT, {"site_id": site_id}).fetchone()
        if row is None:
            raise site_not_found(slug)
        deleted = 0
        for statement in _DELETE:
            deleted += connection.execute(statement, {"site_id": site_id, "rows": limit - deleted}).rowcount
            if deleted == limit:
                return Chunk(Deleted(deleted), has_more=True)
        # Here every table was found empty in this very transaction.
        if now < row[0] + QUIET:
            return Chunk(Deleted(deleted), has_more=True)
        connection.execute(_DELETE_SITE, {"site_id": site_id})
        return Chunk(Deleted(deleted), has_more=False)


def _mark(connection: Connection, slug: str, now: datetime) -> int:
    """Marks the site at once, whatever holds it, so that workers leave it alone. Returns its number."""
    site_id = find_site(connection, slug, or_deleting=True).site_id
    connection.execute(_MARK, {"site_id": site_id, "now": now})
    return site_id
