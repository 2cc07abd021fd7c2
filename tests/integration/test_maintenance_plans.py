"""The plans of maintenance: a chunk reads an index as far as its limit, however large the table is."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from admin_svc import status
from admin_svc.chunk import Chunk
from admin_svc.counting import compact, compacted_rows, dead_letters
from admin_svc.maintenance import cleanup, prune, retention
from admin_svc.schedule import runs
from common.db import Database, plain_url
from common.migrate import migrate
from common.sites import Site, find_site
from common.tables import metadata
from tests.support.suite import database_on

NOW = datetime(2026, 3, 1, tzinfo=UTC)
LIMIT = 500
SHARED = {"sites", "api_keys", "secrets"}
"""Small tables, which may be read whole."""

# Two sites, 50,000 rows of a table each but for what waits; half of it has expired by NOW.
_ROWS = "generate_series(1, 50000) AS n, generate_series(1, 2) AS s"
_AT = "'2025-12-01'::timestamptz + n * interval '150 seconds'"
_GROW = f"""
INSERT INTO sites (site_id, slug, name, status, session_timeout_us, retention_days, daily_rollup_retention_days,
                   dedupe_retention_us, rollup_shard_count, allowed_property_keys, denied_property_keys,
                   allowed_origins, created_at, updated_at)
SELECT n, 'site-' || n, '', 1, 1800000000, 50, 50, 1, 8, '{{}}', '{{}}', '{{}}', now(), now()
FROM generate_series(1, 2) AS n;
INSERT INTO events (occurred_at, received_at, batch_id, site_id, ord, event_id, type, visitor_id, path)
SELECT {_AT}, now(), n / 500, s, n % 500, gen_random_uuid(), 1,
       'visitor ' || n % 5000, '/page/' || n % 300
FROM {_ROWS};
INSERT INTO visitors (first_seen_at, last_seen_at, site_id, visitor_no, first_event_id, visitor_id, first_session_id)
SELECT {_AT}, {_AT}, s,
       n, gen_random_uuid(), 'visitor ' || n, '' FROM {_ROWS};
INSERT INTO sessions (started_at, ended_at, visitor_no, site_id, events, pageviews, first_event_id, new_visitor,
                      session_id)
SELECT {_AT}, {_AT} + interval '9 s', n,
       s, 1, 1, gen_random_uuid(), true, '' FROM {_ROWS};
INSERT INTO rollup_shards (bucket_start, delta_no, events, pageviews, sessions, bounces, duration_us, new_visitors,
                           site_id, interval, dimension, key)
SELECT '2025-12-01'::timestamptz + n / 25 * interval '1 hour', 0, 1, 1, 0, 0, 0, 0, s, 1, 2, '/page/' || n % 25
FROM {_ROWS};
INSERT INTO rollup_shards (bucket_start, delta_no, events, pageviews, sessions, bounces, duration_us, new_visitors,
                           site_id, interval, dimension, key)
SELECT '2025-12-01'::timestamptz + n / 500 * interval '1 day', 0, 1, 1, 0, 0, 0, 0, s, 2, 2, '/page/' || n % 500
FROM {_ROWS};
INSERT INTO rollup_shards (bucket_start, delta_no, events, pageviews, sessions, bounces, duration_us, new_visitors,
                           site_id, interval, dimension, key)
SELECT '2026-02-20'::timestamptz + n % 72 * interval '1 hour', 1 + n / 72, 1, 1, 0, 0, 0, 0, s, 1, 3, 'r' || n % 100
FROM {_ROWS};
INSERT INTO ingest_dedupes (expires_at, site_id, dedupe_key)
SELECT '2026-02-01'::timestamptz + n * interval '60 seconds', s, gen_random_uuid()
FROM {_ROWS};
INSERT INTO failed_events (site_id, batch_id, ord, partition, attempts, received_at, failed_at, error)
SELECT s, n / 500, n % 500, 0, 3, now(), '2026-02-01', 'x'
FROM generate_series(40000, 49999) AS n, generate_series(1, 2) AS s;
INSERT INTO pending_batches (site_id, partition, batch_id, first_ord, last_ord, received_at, not_before)
SELECT s, n % 8, 1000 + n / 8, n % 8, n % 8, now(), now()
FROM generate_series(1, 20000) AS n, generate_series(1, 2) AS s;
INSERT INTO job_runs (started_at, finished_at, pages, rows, site_id, job)
SELECT now() - n * interval '1 minute', now(), 1, 1, s, j
FROM generate_series(1, 5000) AS n, generate_series(0, 2) AS s,
       unnest('{{aggregate,fold,cleanup}}'::text[]) AS j
"""


class Explainer:
    """A connection that explains each statement it is given and then runs it; what is not of a tenant it only runs."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self.plans: list[tuple[str, str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: str, parameters: Any = None) -> Any:
        if statement.lstrip().startswith(("WITH", "SELECT", "DELETE", "INSERT", "UPDATE")):
            rows = self._connection.execute(f"EXPLAIN (COSTS OFF) {statement}", parameters).fetchall()
            self.plans.append((statement, "\n".join(row[0] for row in rows)))
        return self._connection.execute(statement, parameters)

    def check(self, *indexes: str) -> None:
        """No tenant table is read whole, nothing large is sorted, each index is used, and a LIMIT stands over it."""
        assert self.plans
        for statement, plan in self.plans:
            for table in set(metadata.tables) - SHARED:
                assert not re.search(rf"Seq Scan on {table}\b", plan), f"{statement}\n{plan}"
            # An incremental sort orders only what is equal in the index's own order; sites are few.
            sorts = re.findall(r"->  Sort\n *Sort Key: (.*)", plan)
            assert set(sorts) <= {"s.site_id"}, f"{statement}\n{plan}"
            assert "Hash Anti Join" not in plan, f"{statement}\n{plan}"
        everything = "\n".join(plan for _, plan in self.plans)
        for index in indexes:
            assert re.search(rf"Limit\n(.*\n){{0,12}}?.*using {index}\b", everything), f"{index}\n{everything}"


@contextmanager
def _grown(postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    with database_on(postgres_url) as url:
        db = Database(url, application="test")
        migrate(db)
        db.close()
        with psycopg.connect(plain_url(url), autocommit=True, options="-c timezone=UTC") as connection:
            for table in set(metadata.tables) - SHARED:
                connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
            for statement in _GROW.split(";\n"):
                connection.execute(statement)
            yield connection


@pytest.fixture(scope="module")
def grown(postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A database whose tables have tens of thousands of rows."""
    with _grown(postgres_url) as connection:
        connection.execute("VACUUM ANALYZE")
        yield connection


@pytest.fixture
def just_loaded(postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    """The same before Postgres has seen what is in them."""
    with _grown(postgres_url) as connection:
        yield connection


@pytest.fixture
def explained(grown: psycopg.Connection[Any]) -> Iterator[Any]:
    """What a test does to it is undone."""
    grown.execute("BEGIN")
    yield Explainer(grown)
    grown.execute("ROLLBACK")


def site_of(connection: Any) -> Site:
    return find_site(connection, "site-1")


def test_every_statement_of_a_chunk_of_cleanup_is_bounded(explained: Any) -> None:
    """Of each kind: its index in its order under a LIMIT, deletes by row, and probes for what is left."""
    site = site_of(explained)
    kinds = retention.expired(site, NOW)
    explained.execute(cleanup._READ_IN_ORDER)
    for kind in kinds:
        assert cleanup._delete(explained, site.site_id, kind, LIMIT)[0] <= LIMIT
        cleanup._keys_after(explained, site.site_id, kind, (), 1)
    explained.check("events_by_time", "sessions_by_start", "rollup_rows", "visitors_by_first_seen")
    deletes = [plan for statement, plan in explained.plans if "DELETE" in statement]
    assert len(deletes) == len(kinds)
    assert all("Tid Scan" in plan for plan in deletes)


def test_cleanup_is_bounded_on_tables_without_statistics(just_loaded: psycopg.Connection[Any]) -> None:
    """Each chunk of a cleanup, and of its dry run, walks the indexes also where the planner knows nothing."""
    explained: Any = Explainer(just_loaded)
    site = site_of(explained)
    expected, chunk = 0, Chunk(cleanup.Expirations(), has_more=True)
    while chunk.has_more:
        chunk = cleanup.count_expired(explained, site, NOW, 5_000, chunk.position)
        expected += sum(chunk.done)
    deleted, chunk = 0, Chunk(cleanup.Expirations(), has_more=True)
    while chunk.has_more:
        chunk = cleanup.delete_expired(explained, site.site_id, NOW, 5_000)
        deleted += sum(chunk.done)
    assert deleted >= expected > 100_000
    explained.check("events_by_time", "sessions_by_start", "rollup_rows", "visitors_by_first_seen")


def test_a_chunk_of_cleanup_in_the_midst_of_a_kind_is_bounded(explained: Any) -> None:
    """Counting goes on at its cursor by the same index."""
    site = site_of(explained)
    explained.execute(cleanup._READ_IN_ORDER)
    for kind in retention.expired(site, NOW):
        first = cleanup._keys_after(explained, site.site_id, kind, (), LIMIT)
        if first:
            cleanup._keys_after(explained, site.site_id, kind, first[-1], LIMIT)
    explained.check("events_by_time", "sessions_by_start", "rollup_rows", "visitors_by_first_seen")


def test_a_chunk_of_pruning_is_bounded(explained: Any) -> None:
    """It finds sites by one probe each and takes the longest expired keys first."""
    assert prune.prune(explained, 0, NOW, LIMIT) == Chunk(prune.Pruned(LIMIT), has_more=True)
    explained.check("dedupes_by_expiry")


def test_a_chunk_of_retries_is_bounded(explained: Any) -> None:
    """The failed events in the order of their key; the probe for what is left stops at the first."""
    assert dead_letters.requeue(explained, 1, NOW, LIMIT) == Chunk(dead_letters.Requeued(LIMIT), has_more=True)
    explained.check("failed_events_pkey")
    explained.plans.clear()
    explained.execute(dead_letters._SITES_TO_RETRY, {"failed_before": NOW})
    explained.execute(dead_letters._LIST.replace("%(rows)s", str(LIMIT)), {"site_id": 1, "batch_id": 85, "ord": 3})
    explained.check("failed_events_pkey")


def test_a_chunk_of_compaction_is_bounded(explained: Any) -> None:
    """The next delta is one probe, a chunk goes straight to its rows."""
    newest = compact._newest_delta(explained)
    found = compact._next_days(explained, 1, compact._FIRST, LIMIT)
    assert compact._next_delta(explained, 1, found[0], newest + 10_000) == found[0]
    where = {
        "site_id": 1,
        "dimensions": [dimension for dimension, _ in found],
        "starts": [hour for _, hour in found],
        "next_days": [hour + timedelta(days=1) for _, hour in found],
        "limit": LIMIT,
    }
    assert explained.execute(compacted_rows._TAKE_DELTAS, where).rowcount == LIMIT
    explained.execute(compact._SITES_WITH_DELTAS)
    explained.check("rollup_deltas")


def test_the_state_of_sites_is_probes_however_many_runs_there_were(explained: Any) -> None:
    """The last run of a job is the end of an index."""
    assert runs.last_runs(explained, [1, 2])[1] != []
    explained.check("job_runs_pkey")
    assert {table.name for table in status.table_states(explained)} >= {"events", "job_runs"}
