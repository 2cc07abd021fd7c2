"""The transaction of ingest: reserves dedupe keys, stores events and queues them for aggregation."""

from collections import defaultdict
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import psycopg
from psycopg.rows import tuple_row

from common.errors import CallError, site_closed
from common.event_columns import EVENT_COLUMNS
from common.sites import DELETING, Site
from ingest_svc.copy_format import UuidArray, copy_data, copy_lines
from ingest_svc.event_rows import Row

# Reserves the keys that are new or expired and returns the others, which are duplicates. The keys are sorted, so that
# two transactions with common keys lock them in the same order and cannot deadlock. The time is a parameter because a
# database distributed by site refuses now() here. It waits at most 100 ms for a lock: only dedupe keys are locked by
# others, by a transaction of another process, which takes milliseconds unless the process is frozen, or by a deletion.
# The bound is set here because a statement of its own takes longer.
_RESERVE_DEDUPE_KEYS = """
WITH sent AS (SELECT key FROM unnest(%(keys)s) AS key, set_config('lock_timeout', '100ms', true)),
reserved AS (
    INSERT INTO ingest_dedupes AS d (site_id, dedupe_key, expires_at)
    SELECT %(site_id)s, key, %(expires_at)s FROM sent ORDER BY key
    ON CONFLICT (site_id, dedupe_key) DO UPDATE SET expires_at = excluded.expires_at
    WHERE d.expires_at <= %(now)s
    RETURNING d.dedupe_key
)
SELECT key FROM sent WHERE NOT EXISTS (SELECT FROM reserved WHERE reserved.dedupe_key = sent.key)
"""

# Stores events.
_COPY_EVENTS = f"COPY events ({', '.join(EVENT_COLUMNS)}) FROM STDIN WITH (FORMAT binary)"

# Queues the new batches of one site for aggregation, unless the site is being deleted. The call may have waited since
# its key was looked up, and no row may be stored for a site that is gone. From here on, only a lock on a whole table
# can be in the way, such as a migration's. It is the fault of no site, so it is waited for as long as elsewhere.
_ADD_PENDING = f"""
INSERT INTO pending_batches (site_id, partition, batch_id, first_ord, last_ord, received_at, not_before)
SELECT %(site_id)s, partition, batch_id, 0, last_ord, %(now)s, %(now)s
FROM unnest(%(partitions)s::smallint[], %(batch_ids)s::bigint[], %(last_ords)s::int[])
  AS batch (partition, batch_id, last_ord), set_config('lock_timeout', '5s', true)
WHERE EXISTS (SELECT FROM sites WHERE site_id = %(site_id)s AND status <> {DELETING})
"""

# Reserves a block of batch numbers. The increment of the sequence is the size of the block.
_RESERVE_BATCH_NUMBERS = "SELECT nextval('batch_numbers')"
_BLOCK = 1000


@dataclass(slots=True)
class Incoming:
    """The valid events of one call."""

    site: Site
    rows: list[Row]
    received_at: datetime
    trace: object = None
    """The place of the call in its trace; see common/telemetry/tracing.py."""


@dataclass
class SiteFault(Exception):  # noqa: N818  # says whose fault it is; `error` is the error
    """The part of one site made the transaction fail. `error` is a CallError if the site takes no events, or a
    LockNotAvailable if another transaction holds its dedupe keys."""

    site_id: int
    error: CallError | psycopg.errors.LockNotAvailable


class BatchNumbers:
    """Numbers for batches, reserved in the database in blocks. Numbers left when the process ends are never used."""

    def __init__(self) -> None:
        self._next = 0
        self._end = 0

    def take(self, connection: psycopg.Connection[object]) -> int:
        """A number that no other batch has."""
        if self._next == self._end:
            row = connection.execute(_RESERVE_BATCH_NUMBERS).fetchone()
            assert isinstance(row, tuple)
            self._next = row[0]
            self._end = self._next + _BLOCK
        self._next += 1
        return self._next - 1


def store_events(
    connection: psycopg.Connection[object], numbers: BatchNumbers, calls: list[Incoming], now: datetime
) -> list[int]:
    """Stores the calls' events in the caller's transaction. Returns how many events of each call were accepted.

    Of several events with one key the first is accepted; the others are duplicates. Raises SiteFault if the site of a
    call is being deleted or others hold its keys for longer than 100 ms: then the transaction holds up the other sites.
    """
    by_site: defaultdict[int, list[tuple[int, Incoming]]] = defaultdict(list)
    for position, call in enumerate(calls):
        by_site[call.site.site_id].append((position, call))
    duplicates = _reserve_all_keys(connection, by_site, now)
    accepted = [0] * len(calls)
    lines: list[bytes] = []
    for site_id, site_calls in by_site.items():
        known = {row[0].bytes for row in duplicates[site_id].fetchall()}
        partitions: defaultdict[int, list[bytes]] = defaultdict(list)
        for position, call in site_calls:
            for partition, key, fields in call.rows:
                if key is not None:
                    if key in known:
                        continue
                    known.add(key)
                partitions[partition].append(fields)
                accepted[position] += 1
        if not partitions:
            continue
        batch_ids = [numbers.take(connection) for _ in partitions]
        for batch_id, rows in zip(batch_ids, partitions.values(), strict=True):
            lines.append(copy_lines(batch_id, site_id, rows))
        queued = connection.execute(
            _ADD_PENDING,
            {
                "site_id": site_id,
                "now": min(call.received_at for _, call in site_calls),
                "partitions": list(partitions),
                "batch_ids": batch_ids,
                "last_ords": [len(rows) - 1 for rows in partitions.values()],
            },
        )
        if not queued.rowcount:
            raise SiteFault(site_id, site_closed(site_calls[0][1].site.slug))
    if lines:
        with connection.cursor() as cursor, cursor.copy(_COPY_EVENTS) as copy:
            copy.write(copy_data(lines))
    return accepted


def _reserve_all_keys(
    connection: psycopg.Connection[object], by_site: Mapping[int, list[tuple[int, Incoming]]], now: datetime
) -> dict[int, psycopg.Cursor[tuple[UUID]]]:
    """Reserves the keys of every site. The rows are the keys that were reserved before and have not expired."""
    duplicates: dict[int, psycopg.Cursor[tuple[UUID]]] = {}
    try:
        # A pipeline waits for the database once and not for each site. After each wait the thread would also wait for
        # the interpreter's lock. For one site it costs more than it saves.
        with connection.pipeline() if len(by_site) > 1 else nullcontext():
            for site_id in sorted(by_site):
                duplicates[site_id] = connection.cursor(binary=True, row_factory=tuple_row)
                _reserve_keys(duplicates[site_id], by_site[site_id], now)
    except psycopg.errors.LockNotAvailable as error:
        # Results come in order, and the first without one is that of the statement that failed.
        raise SiteFault(next(one for one, rows in duplicates.items() if rows.pgresult is None), error) from error
    return duplicates


def _reserve_keys(cursor: psycopg.Cursor[tuple[UUID]], calls: list[tuple[int, Incoming]], now: datetime) -> None:
    """Reserves every key of one site's calls."""
    site = calls[-1][1].site
    keys = {row.dedupe_key for _, call in calls for row in call.rows if row.dedupe_key is not None}
    cursor.execute(
        _RESERVE_DEDUPE_KEYS,
        {
            "keys": UuidArray(list(keys)),
            "site_id": site.site_id,
            "expires_at": now + site.dedupe_retention,
            "now": now,
        },
    )
