"""The yardstick of everything that writes: what one bare psycopg connection stores in the same tables.

It runs the same two statements of the same shape as ingest, the insert of the dedupe keys and the COPY of the
events, 2,000 rows a transaction, with the rows made ready beforehand. It takes turns with what it is held against,
because the figures of a machine that others use too mean something only beside each other.
"""

import itertools
import random
import statistics
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import psycopg

from bench.events import batch
from common.sites import ACTIVE, Site
from ingest_svc.wire import COPY_COLUMNS, Row, to_rows

ROWS_A_TRANSACTION = 2_000
_EVENTS_A_BATCH = 50
_SITE = Site(
    site_id=-1,
    slug="yardstick",
    name="",
    status=ACTIVE,
    session_timeout_us=0,
    retention_days=None,
    raw_event_retention_days=None,
    hourly_rollup_retention_days=None,
    daily_rollup_retention_days=None,
    dedupe_retention_us=0,
    rollup_shard_count=1,
    allowed_property_keys=[],
    denied_property_keys=[],
    allowed_origins=[],
    raw_from=None,
    hours_from=None,
    days_from=None,
)
"""It exists only here: its rows are stored by nobody else, and nobody asks for them."""

_INSERT_KEYS = """
INSERT INTO ingest_dedupes (site_id, dedupe_key, expires_at) SELECT %s, key, %s FROM unnest(%s::uuid[]) AS key
ON CONFLICT (site_id, dedupe_key) DO NOTHING
"""
_COPY = f"COPY events ({', '.join(COPY_COLUMNS)}) FROM STDIN WITH (NULL '')"


class Yardstick:
    """Stores new events of a site of its own, which does not exist, a run at a time."""

    def __init__(self, database_url: str, seed: int = 2) -> None:
        self._database_url = database_url
        self._rng = random.Random(seed)
        self._batch_ids = itertools.count()
        self.rates: list[float] = []
        """Events a second of each run."""

    def run(self, events: int) -> float:
        """Stores so many events; returns how many a second that were."""
        batches = max(1, events // _EVENTS_A_BATCH)
        now = datetime.now(UTC)
        rows = [row for _ in range(batches) for row in to_rows(batch(_EVENTS_A_BATCH, self._rng), _SITE, now)[0]]
        self.rates.append(len(rows) / self._store(rows))
        return self.rates[-1]

    @property
    def rate(self) -> float:
        """The median of the runs."""
        return statistics.median(self.rates)

    def _store(self, rows: Sequence[Row]) -> float:
        expires = datetime.now(UTC) + timedelta(days=1)
        chunks = []
        for start in range(0, len(rows), ROWS_A_TRANSACTION):
            part, number = rows[start : start + ROWS_A_TRANSACTION], next(self._batch_ids)
            lines = "".join(
                f"{row.times}\t{number}\t{_SITE.site_id}\t{ord_}\t{row.texts}\n" for ord_, row in enumerate(part)
            )
            keys = "{" + ",".join(sorted(row.dedupe_key or "" for row in part)) + "}"
            chunks.append((keys, lines))
        with psycopg.connect(self._database_url) as connection:
            began = time.perf_counter()
            for keys, lines in chunks:
                connection.execute(_INSERT_KEYS, (_SITE.site_id, expires, keys))
                with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
                    copy.write(lines)
                connection.commit()
            return time.perf_counter() - began
