"""Loads a dataset into a site as if it had been ingested, aggregated and compacted. A test proves that it is equal.

Events, visitors and sessions are copied from CSV files that DuckDB writes. bench/rollups.py makes the rollups.
"""

import multiprocessing
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from string import Template

import duckdb
import psycopg

from bench.dataset import open_dataset
from bench.rollups import BY_COST, copy_dimension
from common.event_columns import EVENT_COLUMNS

BATCH_EVENTS = 250
"""Events of a batch, as ingest would have stored a few calls together."""

_CHUNK_EVENTS = 250_000
_PIECE_BYTES = 1 << 20
_WORKERS = 2

TABLES = ("events", "visitors", "sessions", "rollup_shards", "ingest_dedupes")

_OWN = {
    "site_id": "$site_id",
    "batch_id": f"$first_batch + n // {BATCH_EVENTS}",
    "ord": f"n % {BATCH_EVENTS}",
    "user_id": "NULL",
    "event_id_text": "NULL",
}
_EVENTS = f"""
SELECT {", ".join(f"{_OWN.get(column, column)} AS {column}" for column in EVENT_COLUMNS)}
FROM events WHERE n >= $first_n AND n < $end_n
"""

_TOUCH = "path, referrer, source, device, browser, os, country, utm_source, utm_medium, utm_campaign"


def _touch(event: str) -> str:
    """SQL for the touch of an event as JSON. The merge into an empty object leaves out absent fields."""
    parts = ", ".join(f"'{name}': {event}.{name}" for name in _TOUCH.split(", "))
    return f"json_merge_patch('{{}}', to_json({{{parts}}}))"


_VISITORS = f"""
SELECT first.occurred_at AS first_seen_at, last.occurred_at AS last_seen_at, $site_id AS site_id, v.visitor_no,
       first.event_id AS first_event_id, v.visitor_id, coalesce(first.session_id, '') AS first_session_id,
       last.event_id AS last_event_id, {_touch("first")} AS first_touch, {_touch("last")} AS last_touch
FROM visitors v JOIN events first ON first.n = v.first_n JOIN events last ON last.n = v.last_n ORDER BY v.visitor_no
"""

_SESSIONS = "SELECT $site_id AS site_id, * FROM sessions ORDER BY started_at"

_RESERVE_BATCHES = "SELECT setval('batch_numbers', nextval('batch_numbers') + %s)"
_RESERVE_VISITORS = """
INSERT INTO visitor_counters (site_id, next_no) SELECT %(site_id)s, count(*) FROM visitors WHERE site_id = %(site_id)s
"""

# Reserves the dedupe keys of all events of a site.
_RESERVE_KEYS = """
INSERT INTO ingest_dedupes (site_id, dedupe_key, expires_at) SELECT site_id, event_id, %(expires_at)s
FROM events WHERE site_id = %(site_id)s
"""

_INDEXES = """
SELECT i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid), c.conname, pg_get_constraintdef(c.oid)
FROM pg_index i LEFT JOIN pg_constraint c ON c.conindid = i.indexrelid WHERE i.indrelid = %s::regclass
"""


def load(file: Path, database_url: str, site_id: int) -> None:
    """Loads the file into the site, without dedupe keys. The site must be empty and have one partition."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        with open_dataset(file) as source:
            row = source.execute("SELECT count(*) FROM events").fetchone()
        events = row[0] if row else 0
        reserved = connection.execute(_RESERVE_BATCHES, (events // BATCH_EVENTS + 1_000,)).fetchone()
        first_batch = reserved[0] - events // BATCH_EVENTS - 1_000 if reserved else 0
        chunks = [
            {"site_id": site_id, "first_batch": first_batch, "first_n": n, "end_n": n + _CHUNK_EVENTS}
            for n in range(0, events, _CHUNK_EVENTS)
        ]
        _copy_all(file, database_url, "events", _EVENTS, chunks)
        _copy_all(file, database_url, "visitors", _VISITORS, [{"site_id": site_id}])
        _copy_all(file, database_url, "sessions", _SESSIONS, [{"site_id": site_id}])
        connection.execute(_RESERVE_VISITORS, {"site_id": site_id})
    # Processes, because the sets are made in Python; spawned, because gRPC does not survive a fork.
    with ProcessPoolExecutor(_WORKERS, mp_context=multiprocessing.get_context("spawn")) as pool:
        tasks = [pool.submit(copy_dimension, file, database_url, site_id, dimension) for dimension in BY_COST]
        for task in tasks:
            task.result()


def reserve_dedupe_keys(database_url: str, site_id: int) -> None:
    """Reserves the dedupe keys of all events of the site for a day, as ingest would have."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(_RESERVE_KEYS, {"site_id": site_id, "expires_at": datetime.now(UTC) + timedelta(days=1)})


@contextmanager
def without_indexes(database_url: str, tables: Sequence[str] = TABLES) -> Iterator[None]:
    """Drops the indexes of the tables while the block fills them, and builds them afterwards, which is far faster.

    Rows are loaded in the order of the indexes that grow at their right end, so these are as large afterwards as if
    they had grown.
    """
    with psycopg.connect(database_url, autocommit=True, options="-c maintenance_work_mem=1GB") as connection:
        rebuild = []
        for table in tables:
            for index, definition, constraint, rule in connection.execute(_INDEXES, (table,)).fetchall():
                if constraint:
                    connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {constraint}")
                    rebuild.append(f"ALTER TABLE {table} ADD CONSTRAINT {constraint} {rule}")
                else:
                    connection.execute(f"DROP INDEX {index}")
                    rebuild.append(definition)
        yield
        for statement in rebuild:
            connection.execute(statement)


def settle(database_url: str, tables: Sequence[str] = TABLES) -> None:
    """Does the work of autovacuum and a checkpoint, so that it does not happen during a measurement."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        for table in tables:
            connection.execute(f"VACUUM (ANALYZE) {table}")
        connection.execute("CHECKPOINT")


def _copy_all(file: Path, database_url: str, table: str, query: str, chunks: Sequence[Mapping[str, int]]) -> None:
    with open_dataset(file) as source, ThreadPoolExecutor(_WORKERS) as pool:
        tasks = [
            pool.submit(_copy, source.cursor(), database_url, table, Template(query).substitute(chunk))
            for chunk in chunks
        ]
        for task in tasks:
            task.result()


def _copy(source: duckdb.DuckDBPyConnection, database_url: str, table: str, query: str) -> None:
    """Copies the rows of the query into the table. The query's columns have the names of the table's."""
    columns = [column[0] for column in source.execute(f"SELECT * FROM ({query}) LIMIT 0").description or ()]
    with (
        tempfile.NamedTemporaryFile(prefix="footfall-rows-", suffix=".csv") as csv,
        psycopg.connect(database_url, options="-c timezone=UTC -c synchronous_commit=off") as connection,
    ):
        # An absent text is an empty field, an empty text is quoted.
        source.execute(f"COPY ({query}) TO '{csv.name}' (FORMAT csv, DELIMITER '\t', HEADER false, NULLSTR '')")
        statement = f"COPY {table} ({', '.join(columns)}) FROM STDIN (FORMAT csv, DELIMITER E'\\t', NULL '')"
        with open(csv.name, "rb") as rows, connection.cursor() as cursor, cursor.copy(statement) as copy:
            while piece := rows.read(_PIECE_BYTES):
                copy.write(piece)
