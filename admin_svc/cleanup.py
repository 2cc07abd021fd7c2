"""Cleanup: what a site's retention settings say has expired leaves, a page at a time, under one budget.

In this order: aggregated raw events, closed sessions, folded hour rows, day rows, and visitors not seen within every
retention. Cut-offs are whole hours, for day rows whole days: a bucket is there whole or it is gone. A page that
deletes also moves the site's floors (`sites.raw_from`, `hours_from`, `days_from`) behind what it deleted, in the same
transaction, so that a report knows at every instant what it can still answer exactly.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import psycopg

from admin_svc.retention import Expired, expired, floor_to
from admin_svc.site_gate import enter, refuse_under_rebuild, site_busy
from common.locks import cleanup_lock
from common.page_tokens import Cursor
from common.sites import Site
from common.timestamps import EPOCH, duration_micros

DEFAULT_LIMIT = 5_000
MAX_LIMIT = 20_000

# Deletes a page of one kind; answers how many rows, and the last one's time.
_DELETE = """
WITH page AS MATERIALIZED ({page}),
gone AS (DELETE FROM {table} WHERE site_id = %(site_id)s AND ctid = ANY(ARRAY(SELECT ctid FROM page)) RETURNING 1)
SELECT (SELECT count(*) FROM gone), (SELECT max(at) FROM page)
"""

# Moves a floor forward.
_RAISE_FLOOR = """
UPDATE sites SET {floor} = %(at)s WHERE site_id = %(site_id)s AND ({floor} IS NULL OR {floor} < %(at)s)
"""

# A page walks an index in its order, as far as its limit. Of a table without statistics (just loaded) Postgres thinks
# that few rows have expired, and would read and sort all of them for each page.
_WALK = "SELECT set_config('enable_sort', 'off', true)"

_KINDS = ("events", "sessions", "hourly_rollups", "daily_rollups", "visitors")

Connection = psycopg.Connection[Any]
Position = tuple[Any, ...]
"""The kind that is being counted (an index into `expired`), and the keys of its last row that was; or only the kind."""
FIRST: Position = (0,)


class Page(NamedTuple):
    """What a page deleted or, in a dry run, counted."""

    counts: dict[str, int]
    """Rows of each kind: events, sessions, hourly_rollups, daily_rollups, visitors."""
    has_more: bool = False
    position: Position = FIRST
    """Where a dry run goes on."""


def run_once(connection: Connection, site: Site, now: datetime, limit: int) -> Page:
    """Deletes up to `limit` expired rows; `connection` is in autocommit.

    Raises CallError (UNAVAILABLE) while a rebuild is under way, and a DatabaseFault; then nothing was done.
    """
    counts = dict.fromkeys(_KINDS, 0)
    left = limit
    kinds = expired(site, now)
    with connection.transaction():
        # Two callers delete different rows, one after the other.
        connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", cleanup_lock(site.site_id))
        if not enter(connection, site.site_id):
            raise site_busy()
        refuse_under_rebuild(connection, site.site_id)
        connection.execute(_WALK)
        for kind in kinds:
            done, last = _delete(connection, site, kind, left)
            counts[kind.name] += done
            left -= done
            if done and kind.floor:
                behind = floor_to(last, kind.unit) + kind.unit
                parameters = {"site_id": site.site_id, "at": behind}
                connection.execute(_RAISE_FLOOR.format(floor=kind.floor), parameters)
            if not left:
                break
        # Also when the budget was not spent: a row that somebody changed at this moment was passed over.
        has_more = any(_keys_after(connection, site, kind, (), 1) for kind in kinds)
    return Page(counts, has_more)


def count_once(connection: Connection, site: Site, now: datetime, limit: int, position: Position) -> Page:
    """Counts the next `limit` rows that would be deleted, after `position`, and changes nothing."""
    with connection.transaction():
        connection.execute(_WALK)
        return _count(connection, site, expired(site, now), limit, position)


def to_cursor(now: datetime, position: Position) -> Cursor:
    """What a page token keeps of a run; `from_cursor` turns it back."""
    kind, *keys = position
    times = [duration_micros(key - EPOCH) if isinstance(key, datetime) else key for key in (now, *keys)]
    return [times[0], kind, *times[1:]]


def from_cursor(cursor: Cursor) -> tuple[datetime, Position]:
    """The `now` of the run and where it goes on."""
    now, kind, *keys = cursor
    # The first key of every kind is a time.
    times = [EPOCH + timedelta(microseconds=int(key)) for key in keys[:1]]
    return EPOCH + timedelta(microseconds=int(now)), (kind, *times, *keys[1:])


def _delete(connection: Connection, site: Site, kind: Expired, rows: int) -> tuple[int, Any]:
    """How many rows were deleted, and the last one's time."""
    what = f"ctid, {kind.keys[0]} AS at"
    page = f"{kind.select.format(what=what)} ORDER BY {', '.join(kind.keys)} LIMIT %(rows)s"
    parameters = {**kind.parameters, "site_id": site.site_id, "rows": rows}
    row = connection.execute(_DELETE.format(page=page, table=kind.table), parameters).fetchone()
    assert row is not None
    return row[0], row[1]


def _count(connection: Connection, site: Site, kinds: list[Expired], limit: int, position: Position) -> Page:
    counts = dict.fromkeys(_KINDS, 0)
    index, *after = position
    left = limit
    while index < len(kinds):
        found = _keys_after(connection, site, kinds[index], after, left)
        counts[kinds[index].name] += len(found)
        left -= len(found)
        if not left:
            more = bool(_keys_after(connection, site, kinds[index], found[-1], 1)) or any(
                _keys_after(connection, site, kind, (), 1) for kind in kinds[index + 1 :]
            )
            return Page(counts, has_more=more, position=(index, *found[-1]))
        index, after = index + 1, []
    return Page(counts)


def _keys_after(
    connection: Connection, site: Site, kind: Expired, after: Sequence[Any], rows: int
) -> list[tuple[Any, ...]]:
    """The keys of the first rows after those keys (none = of all)."""
    keys = ", ".join(kind.keys)
    beyond = f"AND ({keys}) > ({', '.join(f'%(after{index})s' for index in range(len(after)))})" if after else ""
    parameters = {
        **kind.parameters,
        **{f"after{index}": value for index, value in enumerate(after)},
        "site_id": site.site_id,
        "rows": rows,
    }
    return connection.execute(
        f"{kind.select.format(what=keys)} {beyond} ORDER BY {keys} LIMIT %(rows)s", parameters
    ).fetchall()
