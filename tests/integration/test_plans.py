"""The plans that keep bounded statements bounded, on tables that have grown."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from admin_svc import compact
from common.db import Database, plain_url
from common.dimensions import OVERVIEW, PAGE
from common.migrate import migrate
from query_svc import sources
from query_svc.range_plan import plan_range
from tests.suite import database_on

DAY = datetime(2026, 1, 5, tzinfo=UTC)

_GROW = """
INSERT INTO events (occurred_at, received_at, batch_id, site_id, ord, event_id, type, visitor_id, path)
SELECT '2026-01-01'::timestamptz + n * interval '40 seconds', now(), n / 500, 1, n % 500, gen_random_uuid(), 1,
       'visitor ' || n % 5000, '/page/' || n % 300
FROM generate_series(1, 60000) AS n;
INSERT INTO visitors (first_seen_at, last_seen_at, site_id, visitor_no, first_event_id, visitor_id, first_session_id)
SELECT now(), now(), 1, n, gen_random_uuid(), 'visitor ' || n, '' FROM generate_series(0, 4999) AS n;
INSERT INTO rollup_shards (bucket_start, shard, events, pageviews, sessions, bounces, duration_us, new_visitors,
                           site_id, interval, dimension, key)
SELECT '2026-01-05'::timestamptz + n % 24 * interval '1 hour', 1 + n / 100, 1, 1, 0, 0, 0, 0,
       1, 1, 2, '/page/' || n % 100
FROM generate_series(1, 40000) AS n ON CONFLICT DO NOTHING;
ANALYZE;
"""


@pytest.fixture(scope="module")
def grown(postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A database with 60,000 events of one site and thousands of unfolded deltas."""
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


def test_a_page_of_folding_goes_straight_to_its_deltas(grown: psycopg.Connection[Any]) -> None:
    """By row, not by walking all that is unfolded."""
    plan = plan_of(
        grown,
        compact._TAKE_DELTAS,
        {"site_id": 1, "dimension": 2, "day": DAY, "next_day": DAY + timedelta(days=1), "limit": 100},
    )
    assert "Tid Scan" in plan
    assert "Seq Scan" not in plan


@pytest.mark.parametrize("dimension", [OVERVIEW, PAGE])
def test_a_raw_edge_reads_its_own_events_only(grown: psycopg.Connection[Any], dimension: Any) -> None:
    """However large the table is."""
    plan = plan_range([DAY + timedelta(minutes=7)], DAY + timedelta(hours=30, minutes=7))
    parameters = {**sources.parameters(1, dimension, plan), "keys": ["/page/1", ""], "limit": 10}
    for statement in (
        sources.edge_counters(dimension),
        sources.counters_per_key(dimension, plan, "events"),
        sources.edge_visitors(dimension, some_keys=True),
    ):
        explained = plan_of(grown, statement, parameters)
        assert "events_by_time" in explained
        assert "Seq Scan on events" not in explained
