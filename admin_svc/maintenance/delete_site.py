"""Deletes a site with all its rows, chunk by chunk.

The first chunk marks the site as being deleted. From then on the site takes no events and answers no reports, and it is
neither aggregated nor compacted. Then its rows are deleted, a bounded number in each chunk. The row of the site itself
is deleted last, and at least 10 s after the mark: an ingest process may accept a write key from its cache for up to
4 s, and an accepted call may wait in its queue. What such a call still stores is deleted by later chunks, so no row is
left without a site.
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
"""For how long after the mark a process may still store events of the site: 4 s of cached keys, and its queue."""

# Marks the site as being deleted, unless it is marked already.
_MARK = f"""
UPDATE sites SET status = {DELETING}, updated_at = %(now)s WHERE site_id = %(site_id)s AND status <> {DELETING}
"""

# When the site was marked. Nothing changes `updated_at` of a marked site.
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
"""The tables with rows of a site, in the order in which they are deleted, each with the columns of the index that finds
the rows. Pending batches come first, so that none refers to events that are gone. Keys come last, so that a sender gets
SITE_DISABLED and not KEY_UNKNOWN."""


# Deletes the first rows of the site in one table. ORDER BY makes the planner read the index from its left end, whatever
# share of the table it expects the site to have.
def _delete(rows: str, keys: str) -> str:
    table, _, condition = rows.partition(" WHERE ")
    only = f"AND {condition}" if condition else ""
    return f"""
    DELETE FROM {table} WHERE site_id = %(site_id)s AND ctid = ANY(ARRAY(
        SELECT ctid FROM {table} WHERE site_id = %(site_id)s {only} ORDER BY {keys} LIMIT %(rows)s
    ))
    """


_DELETE = [_delete(rows, keys) for rows, keys in _ROWS.items()]

# Deletes the row of the site.
_DELETE_SITE = "DELETE FROM sites WHERE site_id = %(site_id)s"

Connection = psycopg.Connection[Any]


class Deleted(NamedTuple):
    """Numbers of rows, by what was done with them. The row of the site itself is not counted."""

    deleted: int = 0


def delete_site(connection: Connection, slug: str, now: datetime, limit: int) -> Chunk[Deleted]:
    """Deletes up to `limit` rows of the site. `has_more` tells whether the site still exists.

    `connection` is in autocommit. Raises CallError (NOT_FOUND) if the site does not exist, and the errors of
    DatabaseFault; then the site may be marked, but the call has deleted nothing.
    """
    site_id = _mark(connection, slug, now)
    with connection.transaction():
        hold(connection, site_id)
        # Read again: another call may have deleted the site while this one waited.
        row = connection.execute(_MARKED_AT, {"site_id": site_id}).fetchone()
        if row is None:
            raise site_not_found(slug)
        deleted = 0
        for statement in _DELETE:
            deleted += connection.execute(statement, {"site_id": site_id, "rows": limit - deleted}).rowcount
            if deleted == limit:
                return Chunk(Deleted(deleted), has_more=True)
        # At this point this transaction has found every table empty.
        if now < row[0] + QUIET:
            return Chunk(Deleted(deleted), has_more=True)
        connection.execute(_DELETE_SITE, {"site_id": site_id})
        return Chunk(Deleted(deleted), has_more=False)


def _mark(connection: Connection, slug: str, now: datetime) -> int:
    """Marks the site without waiting for its lock, so that workers stop working on it. Returns its number."""
    site_id = find_site(connection, slug, or_deleting=True).site_id
    connection.execute(_MARK, {"site_id": site_id, "now": now})
    return site_id
