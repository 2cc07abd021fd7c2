"""The yardstick for everything that writes: what one bare psycopg connection stores in the same tables.

It runs the two statements of ingest (the INSERT of the dedupe keys and the COPY of the events) in the same shape, 2,000
rows a transaction, with the rows prepared beforehand. It takes turns with what is measured, because on a machine that
others use too a figure alone means little.
"""

import itertools
import json
import random
import statistics
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import psycopg
from footfall.ingest.v1 import ingest_pb2
from google.protobuf import json_format

from bench.events import batch
from common.event_columns import EVENT_COLUMNS

ROWS_A_TRANSACTION = 2_000
_EVENTS_A_BATCH = 50
_SITE_ID = -1
"""A site that does not exist, so nothing else stores or reads its rows."""

_CONTEXT = ("source", "device", "browser", "os", "country", "utm_source", "utm_medium", "utm_campaign")

_INSERT_KEYS = """
INSERT INTO ingest_dedupes (site_id, dedupe_key, expires_at) SELECT %s, key, %s FROM unnest(%s::uuid[]) AS key
ON CONFLICT (site_id, dedupe_key) DO NOTHING
"""
_COPY = f"COPY events ({', '.join(EVENT_COLUMNS)}) FROM STDIN WITH (NULL '')"


class Yardstick:
    """Stores new events of a site that does not exist, in runs."""

    def __init__(self, database_url: str, seed: int = 2) -> None:
        self._database_url = database_url
        self._rng = random.Random(seed)
        self._batch_ids = itertools.count()
        self.rates: list[float] = []
        """Events a second of each run."""

    def run(self, events: int) -> float:
        """Stores `events` events. Returns how many a second these were."""
        batches = max(1, events // _EVENTS_A_BATCH)
        now = datetime.now(UTC)
        rows = [row for _ in range(batches) for row in _rows(batch(_EVENTS_A_BATCH, self._rng), now)]
        self.rates.append(len(rows) / self._store(rows))
        return self.rates[-1]

    @property
    def rate(self) -> float:
        """The median of the runs."""
        return statistics.median(self.rates)

    def _store(self, rows: Sequence[tuple[str, str]]) -> float:
        expires = datetime.now(UTC) + timedelta(days=1)
        chunks = []
        for start in range(0, len(rows), ROWS_A_TRANSACTION):
            part, number = rows[start : start + ROWS_A_TRANSACTION], next(self._batch_ids)
            lines = "".join(f"{number}\t{_SITE_ID}\t{ord_}\t{columns}\n" for ord_, (_, columns) in enumerate(part))
            keys = "{" + ",".join(sorted(key for key, _ in part)) + "}"
            chunks.append((keys, lines))
        with psycopg.connect(self._database_url) as connection:
            began = time.perf_counter()
            for keys, lines in chunks:
                connection.execute(_INSERT_KEYS, (_SITE_ID, expires, keys))
                with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
                    copy.write(lines)
                connection.commit()
            return time.perf_counter() - began


def _rows(request: ingest_pb2.IngestBatchRequest, received_at: datetime) -> list[tuple[str, str]]:
    """The dedupe key of each event, and its columns from occurred_at on, as text. Generated events need no escapes."""
    shared = request.defaults
    who = (shared.visitor_id, shared.session_id, shared.user_id)
    context = [getattr(shared.context, name) for name in _CONTEXT]
    rows = []
    for event in request.events:
        occurred_at = event.occurred_at.ToDatetime(UTC)
        properties = json.dumps(json_format.MessageToDict(event.properties)) if event.HasField("properties") else ""
        what = (event.name, event.path, event.title, event.referrer, *context, properties)
        times = (occurred_at.isoformat(), received_at.isoformat())
        rows.append((event.event_id, "\t".join((*times, event.event_id, str(event.type), *who, "", *what))))
    return rows
