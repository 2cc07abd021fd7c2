"""Deleting a site with everything it has, page by page.

The first page marks the site: from then on it takes no events, answers no reports, and no worker counts or folds it.
Then its rows go, a bounded number a page. The row of the site itself goes last and not at once: an ingest process
knows a write key for up to 4 s without asking, and a call it let in may wait in its queue. What such a call still
stores is deleted by the pages of those seconds, so that nothing is left that belongs to no site.
"""

from datetime import datetime, timedelta
from typing import Any, NamedTuple

import psycopg

from admin_svc.site_gate import hold
from common.errors import site_not_found
from common.sites import DELETING

DEFAULT_LIMIT = 5_000
MAX_LIMIT = 20_000
QUIET = timedelta(seconds=10)
"""How long after it was marked no process lets events of the site in any more: 4 s of cached keys, and a queue."""

# Marks the site, unless it is marked.
_MARK = f"UPDATE sites SET status = {DELETING}, updated_at = %(now)s WHERE slug = %(slug)s AND status <> {DELETING}"

_FIND = "SELECT site_id FROM sites WHERE slug = %(slug)s"

# When it was marked: nothing else changes a site that is.
_MARKED_AT = f"SELECT updated_at FROM sites WHERE site_id = %(site_id)s AND status = {DELETING}"

_ROWS = {
    "pending_batches": "site_id, lane, received_at, batch_id, first_ord",
    "failed_events": "site_id, batch_id, ord",
    "events": "site_id, batch_id, ord",
    "sessions": "site_id, visitor_no, session_id, started_at",
    "visitors": "site_id, visitor_no",
    "rollup_shards WHERE shard > 0": "site_id, dimension, bucket_start",
    "rollup_shards WHERE shard = 0": "site_id, interval, dimension, bucket_start, key",
    "ingest_dedupes": "site_id, dedupe_key",
    "erased_hours": "site_id, hour",
    "job_runs": "site_id, job, started_at",
    "rebuilds": "site_id",
    "visitor_counters": "site_id",
    "api_keys": "site_id, key_id",
}
"""All rows of a site, by table, in the order in which they go, and the index that finds them: what is pending
first, so that nothing points at events that are gone. Keys last, so that a sender is told that the site is closed
rather than that its key is unknown."""


# Deletes up to a page of the site's rows. Sorted, so that the index is read from its left end whatever the planner
# thinks of the site's share of the table.
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


class Page(NamedTuple):
    """What one call did."""

    deleted: int
    """Rows; that of the site itself is not counted."""
    has_more: bool
    """Whether the site is still there."""


def run_once(connection: Connection, slug: str, now: datetime, limit: int) -> Page:
    """Deletes up to `limit` rows of the site; `connection` is in autocommit.

    Raises CallError (NOT_FOUND) when there is no such site, or no more; and a DatabaseFault, after which the site may
    be marked but nothing is half-deleted.
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
                return Page(deleted, has_more=True)
        # Here every table was found empty in this very transaction.
        if now < row[0] + QUIET:
            return Page(deleted, has_more=True)
        connection.execute(_DELETE_SITE, {"site_id": site_id})
        return Page(deleted, has_more=False)


def _mark(connection: Connection, slug: str, now: datetime) -> int:
    """Marks the site, at once and whatever holds it: so workers leave it alone. Returns its number."""
    if "\0" in slug:
        raise site_not_found(slug)
    connection.execute(_MARK, {"slug": slug, "now": now})
    row = connection.execute(_FIND, {"slug": slug}).fetchone()
    if row is None:
        raise site_not_found(slug)
    return int(row[0])
