"""Cleanup: deletes what has passed a site's retention, under one limit for all kinds of rows.

Rows are deleted in this order: aggregated raw events, closed sessions, compacted hour rows, day rows, and visitors not
seen within any retention. Cut-offs are whole hours, for day rows whole days, so a bucket is deleted as a whole. In the
same transaction a chunk moves the site's floors (`sites.raw_from`, `hours_from`, `days_from`) past what it deletes. So
a report can tell at every instant what it can still answer exactly.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import class_row

from admin_svc.chunk import Chunk, Position
from admin_svc.maintenance.retention import Expired, expired, probes_of
from admin_svc.site_lock import SiteBusy, enter, refuse_under_rebuild
from common.intervals import floor
from common.locks import cleanup_lock
from common.sites import COLUMNS, DELETING, Site, site_of_id

DEFAULT_LIMIT = 5_000
MAX_LIMIT = 20_000

# The sites that are not being deleted.
_SITES = f"SELECT {COLUMNS} FROM sites s WHERE s.status <> {DELETING} ORDER BY s.site_id"

_PROBED_AT_ONCE = 200
"""Of so many sites the probes go to the database in one pipeline and one transaction."""

# Deletes the first rows of one kind. Returns how many, and the time of the last one.
_DELETE = """
WITH chunk AS MATERIALIZED ({chunk}),
gone AS (DELETE FROM {table} WHERE site_id = %(site_id)s AND ctid = ANY(ARRAY(SELECT ctid FROM chunk)) RETURNING 1)
SELECT (SELECT count(*) FROM gone), (SELECT max(at) FROM chunk)
"""

# Moves a floor forward, never back.
_RAISE_FLOOR = """
UPDATE sites SET {floor} = %(at)s WHERE site_id = %(site_id)s AND ({floor} IS NULL OR {floor} < %(at)s)
"""

# A chunk reads an index in its order, up to its limit. On a table without statistics (just loaded) Postgres expects
# that few rows have expired. It would then read and sort all of them for each chunk.
_READ_IN_ORDER = "SELECT set_config('enable_sort', 'off', true)"

Connection = psycopg.Connection[Any]


class Expirations(NamedTuple):
    """Rows deleted or, in a dry run, counted."""

    events: int = 0
    sessions: int = 0
    hourly_rollups: int = 0
    daily_rollups: int = 0
    visitors: int = 0


def sites_to_clean_up(connection: Connection, now: datetime) -> list[int]:
    """The numbers of the sites that have rows that have expired, ascending, but of those being deleted.

    A site without any costs an index probe for each kind. With the chunk's own transaction and statements, a thousand
    idle sites took more than the 10 s of a run.
    """
    with connection.cursor(row_factory=class_row(Site)) as cursor:
        sites = cursor.execute(_SITES).fetchall()
    found: list[int] = []
    for start in range(0, len(sites), _PROBED_AT_ONCE):
        with connection.transaction():
            connection.execute(_READ_IN_ORDER)
            with connection.pipeline():
                probes = [
                    (site.site_id, connection.execute(statement, {**parameters, "site_id": site.site_id}))
                    for site in sites[start : start + _PROBED_AT_ONCE]
                    for statement, parameters in probes_of(site, now)
                ]
            # A site is named once for each kind that it has.
            found += sorted({site_id for site_id, rows in probes if rows.fetchone()})
    return found


def delete_expired(connection: Connection, site_id: int, now: datetime, limit: int) -> Chunk[Expirations]:
    """Deletes up to `limit` rows that have expired at `now`. `connection` is in autocommit.

    Raises SiteBusy while a rebuild or the site's deletion is under way, and the errors of DatabaseFault. In both cases
    nothing was done.
    """
    done = dict.fromkeys(Expirations._fields, 0)
    left = limit
    with connection.transaction():
        # Callers delete one after the other, so that two of them do not choose the same rows.
        connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", cleanup_lock(site_id))
        if not enter(connection, site_id) or (site := site_of_id(connection, site_id)) is None:
            raise SiteBusy
        refuse_under_rebuild(connection, site_id)
        connection.execute(_READ_IN_ORDER)
        kinds = expired(site, now)
        for kind in kinds:
            deleted, last = _delete(connection, site_id, kind, left)
            done[kind.name] += deleted
            left -= deleted
            if deleted and kind.floor:
                behind = floor(last, kind.unit) + kind.unit
                connection.execute(_RAISE_FLOOR.format(floor=kind.floor), {"site_id": site_id, "at": behind})
            if not left:
                break
        # Also probed when the limit was not reached: a row that another transaction was changing was passed over.
        has_more = any(_keys_after(connection, site_id, kind, (), 1) for kind in kinds)
    return Chunk(Expirations(**done), has_more)


def count_expired(
    connection: Connection, site: Site, now: datetime, limit: int, position: Position = ()
) -> Chunk[Expirations]:
    """Counts the next `limit` rows, after `position`, that `delete_expired` would delete. Changes nothing.

    A position is the index of a kind in `expired` and the keys of the last row of that kind that was counted.
    """
    kinds = expired(site, now)
    done = dict.fromkeys(Expirations._fields, 0)
    index, after = (position[0], position[1:]) if position else (0, ())
    left = limit
    with connection.transaction():
        connection.execute(_READ_IN_ORDER)
        while index < len(kinds):
            found = _keys_after(connection, site.site_id, kinds[index], after, left)
            done[kinds[index].name] += len(found)
            left -= len(found)
            if not left:
                more = bool(_keys_after(connection, site.site_id, kinds[index], found[-1], 1)) or any(
                    _keys_after(connection, site.site_id, kind, (), 1) for kind in kinds[index + 1 :]
                )
                return Chunk(Expirations(**done), more, (index, *found[-1]) if more else ())
            index, after = index + 1, ()
    return Chunk(Expirations(**done), has_more=False)


def _delete(connection: Connection, site_id: int, kind: Expired, rows: int) -> tuple[int, Any]:
    """Deletes up to `rows` rows of a kind. Returns how many were deleted, and the time of the last one."""
    what = f"ctid, {kind.keys[0]} AS at"
    chunk = f"{kind.select.format(what=what)} ORDER BY {', '.join(kind.keys)} LIMIT %(rows)s"
    parameters = {**kind.parameters, "site_id": site_id, "rows": rows}
    row = connection.execute(_DELETE.format(chunk=chunk, table=kind.table), parameters).fetchone()
    assert row is not None
    return row[0], row[1]


def _keys_after(
    connection: Connection, site_id: int, kind: Expired, after: Sequence[Any], rows: int
) -> list[tuple[Any, ...]]:
    """The keys of the first `rows` rows of a kind after the keys `after`; () = from the first row on."""
    keys = ", ".join(kind.keys)
    beyond = f"AND ({keys}) > ({', '.join(f'%(after{index})s' for index in range(len(after)))})" if after else ""
    parameters = {
        **kind.parameters,
        **{f"after{index}": value for index, value in enumerate(after)},
        "site_id": site_id,
        "rows": rows,
    }
    return connection.execute(
        f"{kind.select.format(what=keys)} {beyond} ORDER BY {keys} LIMIT %(rows)s", parameters
    ).fetchall()
