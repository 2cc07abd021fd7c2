"""What a report reads follows from what the site has, however long its range and however many its buckets and rows."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from footfall.query.v1 import query_pb2

from common.db import Database
from common.dimensions import PAGE
from common.migrate import migrate
from common.sites import Site, find_site
from query_svc import incomplete_hours, key_rows, key_sql, occupied, reports
from query_svc.calendar import zone_named
from query_svc.effective_range import EffectiveRange, floors_of
from query_svc.measure import measure_buckets
from query_svc.planning import plan_buckets, plan_whole
from query_svc.range_plan import plan_range
from query_svc.top_keys import first_keys
from tests.support.plan_costs import visits_counted
from tests.support.suite import database_on

EVENTS, KEYS = 300, 60
FIRST = datetime(1980, 1, 1, 5, 20, tzinfo=UTC)
APART = timedelta(days=55, hours=7, minutes=13)
EVER = (datetime(1970, 1, 1, tzinfo=UTC), datetime(2070, 1, 1, tzinfo=UTC))
NOW = datetime(2026, 1, 1, tzinfo=UTC)

# A site with an event every 55 days, each a session of a visitor of its own; its last tenth is not yet compacted. A
# neighbour has rows on every day.
_SITES = """
INSERT INTO sites (slug, name, status, session_timeout_us, dedupe_retention_us, rollup_shard_count,
                   allowed_property_keys, denied_property_keys, allowed_origins, created_at, updated_at)
SELECT slug, '', 1, 1800000000, 86400000000, 1, '{}', '{}', '{}', now(), now()
FROM unnest(ARRAY['few', 'none', 'neighbour']) AS s (slug);
"""
_ROWS = """
CREATE TEMP TABLE made AS
SELECT n, %(first)s + n * %(apart)s AS at, '/' || lpad((n %% %(keys)s)::text, 3, '0') AS page,
       n >= 0.9 * %(events)s AS new
FROM generate_series(0, %(events)s - 1) AS n;
"""
_STORE = """
INSERT INTO events (occurred_at, received_at, batch_id, site_id, ord, event_id, type, visitor_id, path)
SELECT at, at, 1, 1, n, gen_random_uuid(), 1, 'visitor ' || n, page FROM made;
INSERT INTO visitors (first_seen_at, last_seen_at, site_id, visitor_no, first_event_id, visitor_id, first_session_id)
SELECT at, at, 1, n, gen_random_uuid(), 'visitor ' || n, '' FROM made;
INSERT INTO sessions (started_at, ended_at, visitor_no, site_id, events, pageviews, first_event_id, new_visitor,
                      session_id, page)
SELECT at, at, n, 1, 1, 1, gen_random_uuid(), true, '', page FROM made;
INSERT INTO rollup_shards (site_id, interval, dimension, bucket_start, key, delta_no, events, pageviews, sessions,
                           bounces, duration_us, new_visitors, visitors)
SELECT 1, i.interval, d.dimension, date_trunc(i.unit, at), CASE d.dimension WHEN 2 THEN page ELSE '' END, new::int,
       1, 1, 1, 1, 0, 1, '\\x02'::bytea || set_byte(set_byte('\\x0000'::bytea, 0, n % 256), 1, n / 256)
FROM made CROSS JOIN (VALUES (1, 'hour'), (2, 'day')) AS i (interval, unit)
CROSS JOIN (VALUES (0), (2)) AS d (dimension)
WHERE NOT (new AND i.interval = 2);
INSERT INTO rollup_shards (site_id, interval, dimension, bucket_start, key, delta_no, events, pageviews, sessions,
                           bounces, duration_us, new_visitors)
SELECT 3, 2, 2, day, '/' || key, 0, 1, 1, 0, 0, 0, 0
FROM generate_series('2000-01-01'::timestamptz, '2020-01-01', '1 day') AS day, generate_series(1, 5) AS key;
ANALYZE;
"""


@pytest.fixture(scope="module")
def db(postgres_url: str) -> Iterator[Database]:
    with database_on(postgres_url) as url:
        made = Database(url, application="test")
        migrate(made)
        with made.transaction() as connection:
            connection.execute(_SITES)
            connection.execute(_ROWS, {"first": FIRST, "apart": APART, "keys": KEYS, "events": EVENTS})
            connection.execute(_STORE)
        yield made
        made.close()


@pytest.fixture
def connection(db: Database) -> Iterator[psycopg.Connection[Any]]:
    """A snapshot."""
    with db.snapshot() as opened:
        yield opened


def site_named(connection: psycopg.Connection[Any], slug: str) -> Site:
    return find_site(connection, slug)


@pytest.mark.parametrize("order", ["events", "sessions", None])
def test_a_top_list_of_all_times_visits_what_exists(connection: psycopg.Connection[Any], order: str | None) -> None:
    """Not days times keys, which are two millions here; and so it is right."""
    site = site_named(connection, "few")
    with visits_counted(connection) as visited:
        plan = plan_whole(connection, site, EVER).plan
        rows = first_keys(connection, site.site_id, PAGE, plan, order, 1_000)
    assert [(key, counters.events, visitors) for key, counters, visitors in rows] == [
        (f"/{key:03}", EVENTS // KEYS, EVENTS // KEYS) for key in range(KEYS)
    ]
    assert visited.scans < 100
    assert visited.rows < 12 * EVENTS


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "America/New_York"])
@pytest.mark.parametrize("interval", [query_pb2.INTERVAL_DAY, query_pb2.INTERVAL_MONTH])
def test_thousands_of_buckets_visit_what_exists(connection: psycopg.Connection[Any], interval: int, zone: str) -> None:
    """Every event is in the bucket of its day or month in the zone, and empty buckets cost no probes."""
    site, clock = site_named(connection, "few"), zone_named(zone)
    span = (datetime(1975, 1, 1, tzinfo=UTC), datetime(2002, 1, 1, tzinfo=UTC))
    with visits_counted(connection) as visited:
        cut = plan_buckets(connection, site, span, interval, clock)
        measured = measure_buckets(connection, site.site_id, cut.plan)
    starts = cut.range.starts
    ends = [*starts[1:], cut.range.end]
    moments = [FIRST + n * APART for n in range(EVENTS)]
    expected = {
        number: count
        for number, (start, end) in enumerate(zip(starts, ends, strict=True))
        if (count := sum(start <= at < end for at in moments))
    }
    assert {number: counters.events for number, (counters, _) in measured.items()} == expected
    assert {number: visitors for number, (_, visitors) in measured.items()} == expected
    inside = sum(span[0] <= at < span[1] for at in moments)
    assert visited.scans < 100 + 20 * inside, f"{len(starts)} buckets, {inside} events"


def test_an_empty_site_is_asked_for_its_extent_only(connection: psycopg.Connection[Any]) -> None:
    site = site_named(connection, "none")
    request = query_pb2.GetDashboardRequest(
        site="none",
        interval=query_pb2.INTERVAL_DAY,
        time_zone="Asia/Kolkata",
        tops=[query_pb2.TopSpec(dimension=query_pb2.DIMENSION_PAGE, limit=1_000)],
    )
    request.range.start_time.FromDatetime(NOW - timedelta(days=9_999))
    request.range.end_time.FromDatetime(NOW)
    with visits_counted(connection) as visited:
        answer = reports.dashboard(connection, site, request, NOW)
    assert len(answer.dashboard.buckets) == 10_000
    assert answer.dashboard.metadata.effective_range == request.range
    assert answer.dashboard.metadata.exact
    assert visited.scans < 60
    assert visited.rows < 10


def test_probes_follow_the_buckets_that_have_rows(
    connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a range that is long and holds more rows than are read at once: found one behind the other."""
    monkeypatch.setattr(key_rows, "FEW_PROBES", 1)
    plan = plan_range([EVER[0]], EVER[1])
    parameters = key_sql.parameters(1, PAGE, plan)
    with visits_counted(connection) as visited:
        found = key_rows.buckets_with_rows(connection, plan, parameters)
    compacted = [FIRST + n * APART for n in range(EVENTS * 9 // 10)]
    assert found == ([at.replace(hour=0, minute=0) for at in compacted], [])
    assert visited.scans <= len(compacted) + 3


def test_a_few_keys_of_many_rows_are_probed_for(connection: psycopg.Connection[Any]) -> None:
    """And many keys of few rows are read with the others of their range."""
    plan = plan_range([datetime(2000, 1, 1, tzinfo=UTC)], datetime(2000, 3, 1, tzinfo=UTC))
    parameters = key_sql.parameters(3, PAGE, plan)
    assert key_rows.way_to_rows(connection, plan, parameters, ["/1", "/2"])[0] is key_sql.Keys.PROBED
    many = [f"/{key}" for key in range(1_000)]
    assert key_rows.way_to_rows(connection, plan, parameters, many)[0] is key_sql.Keys.FILTERED


def test_pieces_that_hold_nothing_are_left_out_without_a_difference(
    connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether there are many of them or few."""
    site = site_named(connection, "few")
    zone, span = zone_named("Asia/Kathmandu"), (FIRST - timedelta(days=3), FIRST + timedelta(days=400))
    answers = []
    for many in (0, 10**9):
        monkeypatch.setattr(occupied, "MANY_PIECES", many)
        plan = plan_buckets(connection, site, span, query_pb2.INTERVAL_HOUR, zone).plan
        answers.append((measure_buckets(connection, site.site_id, plan), len(plan.edges)))
    (few, few_edges), (all_of_them, all_edges) = answers
    assert few == all_of_them
    assert few_edges <= 4 * len(few) < all_edges


def test_the_extent_is_of_every_table(db: Database) -> None:
    """Whole days around the first and the last of rollups, deltas, events and sessions; each alone widens it."""
    at = datetime(1975, 6, 7, 8, 9, tzinfo=UTC)
    rollup = (
        "INSERT INTO rollup_shards (site_id, interval, dimension, bucket_start, key, delta_no, events, pageviews, "
        "sessions, bounces, duration_us, new_visitors) SELECT 2, {}, 0, date_trunc('{}', %s), '', {}, 1, 1, 0, 0, 0, 0"
    )
    for statement in (
        rollup.format(1, "hour", 0),
        rollup.format(2, "day", 0),
        rollup.format(1, "hour", 7),
        "INSERT INTO events (occurred_at, received_at, batch_id, site_id, ord, event_id, type, visitor_id) "
        "SELECT %s, now(), 1, 2, 0, gen_random_uuid(), 1, 'v'",
        "INSERT INTO sessions (started_at, ended_at, visitor_no, site_id, events, pageviews, first_event_id, "
        "new_visitor, session_id) SELECT %s, now(), 1, 2, 1, 1, gen_random_uuid(), true, ''",
    ):
        with db.connection() as connection, connection.transaction(force_rollback=True):
            connection.execute(statement, (at,))
            site = site_named(connection, "none")
            day = at.replace(hour=0, minute=0)
            assert occupied.extent_of(connection, 2, floors_of(site)) == (day, day + timedelta(days=1)), statement
            gone = floors_of(site)._replace(raw=NOW, hours=NOW, days=NOW)
            assert occupied.extent_of(connection, 2, gone) is None, statement


@pytest.mark.parametrize("kind", ["hours", "days"])
def test_deltas_are_looked_for_as_far_back_as_hours_or_days_are_kept(db: Database, kind: str) -> None:
    """A day whose hour rows have gone is still read with its deltas, and so is an hour whose day's row has gone."""
    with db.connection() as connection:
        floors = floors_of(site_named(connection, "few"))
        late = datetime(2100, 1, 1, tzinfo=UTC)
        gone = floors._replace(raw=late, hours=late, days=late)
        assert occupied.extent_of(connection, 1, gone) is None
        with connection.transaction(force_rollback=True):
            # Of the compacted rows none is left.
            connection.execute("DELETE FROM rollup_shards WHERE site_id = 1 AND delta_no = 0")
            extent = occupied.extent_of(connection, 1, gone._replace(**{kind: floors.days}))
        assert extent is not None
        assert extent.start == (FIRST + EVENTS * 9 // 10 * APART).replace(hour=0, minute=0)


def test_thousands_of_bounds_move_out_of_an_incomplete_hour_as_one_does(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sites without incomplete hours are not asked about each bound; one with some is."""
    span, zone = (FIRST - timedelta(days=3), FIRST + timedelta(days=20)), zone_named("Asia/Kolkata")

    def asked(connection: psycopg.Connection[Any], many: int) -> EffectiveRange:
        monkeypatch.setattr(incomplete_hours, "_MANY_BOUNDS", many)
        site = site_named(connection, "few")
        return plan_buckets(connection, site, span, query_pb2.INTERVAL_HOUR, zone).range

    with db.connection() as connection, connection.transaction(force_rollback=True):
        assert asked(connection, 0) == asked(connection, 10**9)
        assert asked(connection, 0).exact
        connection.execute(
            "INSERT INTO erased_hours (site_id, hour) VALUES (1, date_trunc('hour', %s::timestamptz))", (FIRST,)
        )
        assert asked(connection, 0) == asked(connection, 10**9)
        assert not asked(connection, 0).exact
