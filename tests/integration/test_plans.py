"""The plans that keep bounded statements bounded, on tables that have grown."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from admin_svc.counting import compact, compacted_rows
from admin_svc.maintenance import delete_site
from admin_svc.maintenance.erasure import events as erased_events
from admin_svc.maintenance.erasure import visitors as erased_visitors
from common.db import Database, plain_url
from common.dimensions import OVERVIEW, PAGE
from common.migrate import migrate
from query_svc import incomplete_hours, key_sql, report_sql
from query_svc.range_plan import plan_range
from tests.support.suite import database_on

DAY = datetime(2026, 1, 5, tzinfo=UTC)

_GROW = """
INSERT INTO events (occurred_at, received_at, batch_id, site_id, ord, event_id, type, visitor_id, path)
SELECT '2026-01-01'::timestamptz + n * interval '40 seconds', now(), n / 500, 1, n % 500, gen_random_uuid(), 1,
       'visitor ' || n % 5000, '/page/' || n % 300
FROM generate_series(1, 60000) AS n;
INSERT INTO visitors (first_seen_at, last_seen_at, site_id, visitor_no, first_event_id, visitor_id, first_session_id)
SELECT now(), now(), 1, n, gen_random_uuid(), 'visitor ' || n, '' FROM generate_series(0, 4999) AS n;
INSERT INTO rollup_shards (bucket_start, delta_no, events, pageviews, sessions, bounces, duration_us, new_visitors,
                           site_id, interval, dimension, key)
SELECT '2026-01-05'::timestamptz + n % 24 * interval '1 hour', 1 + n / 100, 1, 1, 0, 0, 0, 0,
       1, 1, 2, '/page/' || n % 100
FROM generate_series(1, 40000) AS n ON CONFLICT DO NOTHING;
INSERT INTO sessions (started_at, ended_at, visitor_no, site_id, events, pageviews, first_event_id, new_visitor,
                      session_id)
SELECT '2026-01-01'::timestamptz + n * interval '1 minute', now(), n % 5000, 1, 1, 1, gen_random_uuid(), true, ''
FROM generate_series(1, 20000) AS n;
INSERT INTO failed_events (site_id, batch_id, ord, partition, attempts, received_at, failed_at, error)
SELECT 1, n / 500, n % 500, 0, 3, now(), now(), '' FROM generate_series(1, 20000) AS n;
INSERT INTO pending_batches (site_id, partition, batch_id, first_ord, last_ord, received_at, not_before)
SELECT 1, 0, 40 + n / 500, n % 500, n % 500, now(), now() FROM generate_series(1, 20000) AS n;
INSERT INTO erased_hours (hour, site_id)
SELECT '2020-01-01'::timestamptz + n * interval '1 hour', 1 FROM generate_series(1, 20000) AS n;
ANALYZE;
"""


@pytest.fixture(scope="module")
def grown(postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A database with 60,000 events of one site and thousands of deltas."""
    with database_on(postgres_url) as url:
        db = Database(url, application="test")
        migrate(db)
        db.close()
        with psycopg.connect(plain_url(url), autocommit=True) as connection:
            connection.execute(_GROW)
            yield connection


def plan_of(connection: psycopg.Connection[Any], statement: str, parameters: dict[str, Any]) -> str:
    """What EXPLAIN says; the statement is not run."""
    return "\n".join(row[0] for row in connection.execute(f"EXPLAIN {statement}", parameters))


def test_a_chunk_of_compaction_goes_straight_to_its_deltas(grown: psycopg.Connection[Any]) -> None:
    """By row, not by walking every delta."""
    plan = plan_of(
        grown,
        compacted_rows._TAKE_DELTAS,
        {
            "site_id": 1,
            "dimensions": [2, 3],
            "starts": [DAY] * 2,
            "next_days": [DAY + timedelta(days=1)] * 2,
            "limit": 100,
        },
    )
    assert "Tid Scan" in plan
    assert "Seq Scan" not in plan


@pytest.mark.parametrize("dimension", [OVERVIEW, PAGE])
def test_a_raw_edge_reads_its_own_events_only(grown: psycopg.Connection[Any], dimension: Any) -> None:
    """However large the table is."""
    plan = plan_range([DAY + timedelta(minutes=7)], DAY + timedelta(hours=30, minutes=7))
    parameters = {**key_sql.parameters(1, dimension, plan), "keys": ["/page/1", ""], "limit": 10}
    for statement in (
        report_sql.edge_counters(dimension),
        key_sql.counters_per_key(dimension, plan, "events"),
        report_sql.edge_visitors(dimension, some_keys=True),
    ):
        explained = plan_of(grown, statement, parameters)
        assert "events_by_time" in explained
        assert "Seq Scan on events" not in explained


def test_a_chunk_of_an_erasure_reads_no_table_through(grown: psycopg.Connection[Any]) -> None:
    """Nor sorts one: it reads as many rows of an index as it may look at."""
    page = {"site_id": 1, "rows": 50, "look": 1000, "batch_id": 7, "ord": 3, "visitor_no": 9}
    subject = {"visitor_id": "visitor 9", "user_id": None}
    span = {"at": DAY, "until": DAY + timedelta(hours=9)}
    for statement in (
        erased_events._SCAN,
        *erased_events._UNAGGREGATED.values(),
        erased_visitors._VISITOR,
        *erased_visitors._VISITOR_OF.values(),
        erased_visitors._SESSIONS,
        erased_visitors._SESSION_AT,
    ):
        parameters = {**page, **subject, **span, "newest": 90, "session_id": ""}
        assert "Seq Scan" not in plan_of(grown, statement, parameters)


def test_a_chunk_of_a_deletion_reads_its_rows_from_an_index(grown: psycopg.Connection[Any]) -> None:
    """Of every table that has grown; and nothing is sorted."""
    grown_tables = ("events", "visitors", "sessions", "rollup_shards", "failed_events", "pending_batches")
    for rows, statement in zip(delete_site._ROWS, delete_site._DELETE, strict=True):
        if rows.partition(" ")[0] in grown_tables:
            plan = plan_of(grown, statement, {"site_id": 1, "rows": 100})
            assert "Seq Scan" not in plan
            assert "Sort" not in plan


def test_compaction_probes_for_its_rows_where_statistics_know_of_deltas_only(grown: psycopg.Connection[Any]) -> None:
    """As they do of a site that has just begun; a join would read all of a dimension for every chunk."""
    places = {
        "dimensions": [2] * 1_000,
        "intervals": [1, 2] * 500,
        "starts": [DAY] * 1_000,
        "keys": [f"/page/{n}" for n in range(1_000)],
    }
    for statement in (compacted_rows._READ_COMPACTED, compacted_rows._DELETE_COMPACTED):
        plan = plan_of(grown, statement, {"site_id": 1, **places})
        assert re.search(r"rollup_rows on rollup_shards.*\n.*Index Cond: .*key = w\.key", plan), plan


def test_a_report_asks_for_erased_hours_by_the_key(grown: psycopg.Connection[Any]) -> None:
    """However many a site has."""
    parameters = {"site_id": 1, "hours": [DAY], "start": DAY, "end": DAY + timedelta(days=9)}
    for statement in (incomplete_hours._INCOMPLETE, incomplete_hours._ANY_INCOMPLETE):
        assert "Seq Scan" not in plan_of(grown, statement, parameters)


def test_some_keys_are_probed_for_by_key_where_there_are_no_statistics(postgres_url: str) -> None:
    """Another index leads to a day's rows too, but to all of them for every key."""
    plan = plan_range([DAY], DAY + timedelta(days=3, hours=2))
    with database_on(postgres_url) as url:
        db = Database(url, application="test")
        migrate(db)
        with db.connection() as connection:
            connection.execute(_GROW.partition("ANALYZE;")[0])
            parameters = {
                **key_sql.parameters(1, PAGE, plan),
                "keys": ["/page/1", "/page/2"],
                "days_at": [DAY],
                "hours_at": [DAY],
            }
            for statement in (
                key_sql.visitor_rows(plan, key_sql.Keys.PROBED),
                key_sql.counters_per_key(PAGE, plan, None, key_sql.Keys.PROBED),
            ):
                explained = plan_of(connection, statement, parameters)
                assert "rollup_days_by_events" not in explained
                assert (
                    len(re.findall(r"rollup_rows on rollup_shards.*\n.*Index Cond: .*key = k(?:_1)?\.key", explained))
                    == 2
                )
        db.close()


def test_compaction_reads_deltas_in_their_order_where_there_are_no_statistics(postgres_url: str) -> None:
    """Sorted for each chunk, the deltas of a site would be read whole as often as there are chunks."""
    with database_on(postgres_url) as url:
        db = Database(url, application="test")
        migrate(db)
        with db.connection() as connection:
            connection.execute(_GROW.partition("ANALYZE;")[0])
            with connection.transaction():
                connection.execute(compact._READ_IN_ORDER)
                where = {"site_id": 1, "dimension": 0, "start": DAY, "limit": 100, "newest": 9}
                for statement in (compact._NEXT_DAYS, compact._NEXT_DELTA):
                    plan = plan_of(connection, statement, where)
                    assert re.search(r"Index (Only )?Scan using rollup_deltas", plan), plan
                    assert "Sort" not in plan
        db.close()
