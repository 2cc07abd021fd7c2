"""Sites whose shape is hard on reports: few events over half a century, and many keys with few events each.

Both are put straight into the tables that reports read, as aggregation and compaction would leave them, except that
the last day of the many keys is left as deltas. Raw events are stored for the few only, so ranges of the many have to
begin and end at whole hours.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from bench.dashboard import Span
from common.dimensions import BROWSER, COUNTRY, ENTRY_PAGE, EVENT, EXIT_PAGE, OVERVIEW, PAGE, REFERRER, is_counted
from common.intervals import RollupInterval
from common.visitor_sets import encode_counts, encode_set

START = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = 30
FEW_EVENTS = 1_501
FEW_KEYS = 1_001
FEW_FROM = datetime(1971, 1, 1, tzinfo=UTC)
EVENTS_A_VISITOR = 20

# Of each key one event first, then the rest wherever chance puts them. Every second event begins a session.
_MANY = """
CREATE TEMP TABLE made AS
SELECT n, %(start)s + random() * %(span)s AS at, (random() * %(visitors)s)::int AS visitor,
       '/articles/' || lpad((CASE WHEN n < %(keys)s THEN n ELSE floor(random() * %(keys)s) END)::text, 6, '0') AS page
FROM generate_series(0, %(events)s - 1) AS n
"""
# Events evenly over the years, each a session of a visitor of its own.
_FEW = """
CREATE TEMP TABLE made AS
SELECT n, %(start)s + n * (%(span)s / %(events)s) AS at, n AS visitor,
       '/' || lpad((n %% %(keys)s)::text, 5, '0') AS page
FROM generate_series(0, %(events)s - 1) AS n
"""
_RAW = """
INSERT INTO events (occurred_at, received_at, batch_id, site_id, ord, event_id, type, visitor_id, path, country)
SELECT at, at, 1, %(site_id)s, n, gen_random_uuid(), 1, 'visitor ' || visitor, page, 'DE' FROM made;
"""
_RAW_SESSIONS = """
INSERT INTO sessions (started_at, ended_at, visitor_no, site_id, events, pageviews, first_event_id, new_visitor,
                      session_id, event, page, country, entry_page, exit_page)
SELECT at, at, visitor, %(site_id)s, 1, 1, gen_random_uuid(), true, '', 'pageview', page, 'DE', page, page FROM made
"""
_RAW_VISITORS = """
INSERT INTO visitors (first_seen_at, last_seen_at, site_id, visitor_no, first_event_id, visitor_id, first_session_id)
SELECT at, at, %(site_id)s, visitor, gen_random_uuid(), 'visitor ' || visitor, '' FROM made
"""

_KEYS: dict[int, str] = {
    OVERVIEW.number: "''",
    EVENT.number: "'pageview'",
    PAGE.number: "page",
    REFERRER.number: "'https://site-' || visitor % 1000 || '.example.org/'",
    BROWSER.number: "'browser ' || visitor % 5",
    COUNTRY.number: "'C' || visitor % 200",
    ENTRY_PAGE.number: "page",
    EXIT_PAGE.number: "page",
}
# A session dimension has the rows of its sessions, with both their events.
_GROUPS = """
SELECT date_trunc('{unit}', at) AS start, {key} AS key, count(*) * {events}, count(*) * {events},
       count(*) FILTER (WHERE n % 2 = 0), 0, 0, 0, array_agg(visitor)
FROM made WHERE {condition} GROUP BY 1, 2
"""
_COPY = """
COPY rollup_shards (site_id, interval, dimension, delta_no, bucket_start, key, events, pageviews, sessions, bounces,
                    duration_us, new_visitors, visitors) FROM STDIN (FORMAT BINARY)
"""
_TYPES = ("int4", "int2", "int2", "int4", "timestamptz", "text", *["int4"] * 4, "int8", "int4", "bytea")


def load_many_keys(connection: psycopg.Connection[Any], site_id: int, events: int, keys: int) -> Span:
    """So many events over 30 days and so many pages; returns the range of whole days that holds them."""
    parameters = {
        "start": START,
        "span": timedelta(days=DAYS),
        "events": events,
        "keys": keys,
        "visitors": events // EVENTS_A_VISITOR,
    }
    connection.execute("SELECT setseed(0.5)")
    connection.execute(_MANY, parameters)
    _store_rollups(connection, site_id, deltas_from=START + timedelta(days=DAYS - 1))
    return START, START + timedelta(days=DAYS)


def load_few_events(connection: psycopg.Connection[Any], site_id: int) -> Span:
    """1,501 events on 1,001 pages, evenly from 1971 to 2026; returns 1970 to the end of 2026."""
    span = START - FEW_FROM
    parameters = {"start": FEW_FROM, "span": span, "events": FEW_EVENTS, "keys": FEW_KEYS, "site_id": site_id}
    connection.execute(_FEW, parameters)
    for statement in (_RAW, _RAW_SESSIONS, _RAW_VISITORS):
        connection.execute(statement, parameters)
    _store_rollups(connection, site_id, deltas_from=START)
    return datetime(1970, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)


def _store_rollups(connection: psycopg.Connection[Any], site_id: int, deltas_from: datetime) -> None:
    """Makes the rows of all hours and days of `made`, which is dropped."""
    for dimension in _KEYS:
        rows = [
            *_rows(connection, site_id, dimension, RollupInterval.HOUR, 0, f"at < '{deltas_from}'"),
            *_rows(connection, site_id, dimension, RollupInterval.DAY, 0, f"at < '{deltas_from}'"),
            *_rows(connection, site_id, dimension, RollupInterval.HOUR, 1, f"at >= '{deltas_from}'"),
        ]
        with connection.cursor().copy(_COPY) as copy:
            copy.set_types(_TYPES)
            for row in rows:
                copy.write_row(row)
    connection.execute("DROP TABLE made")


def _rows(
    connection: psycopg.Connection[Any], site_id: int, dimension: int, interval: int, delta_no: int, condition: str
) -> Iterator[tuple[Any, ...]]:
    counted = is_counted(dimension)
    unit = "day" if interval == RollupInterval.DAY else "hour"
    groups = _GROUPS.format(
        unit=unit,
        key=_KEYS[dimension],
        events=2 if counted else 1,
        condition=f"{condition} AND n % 2 = 0" if counted else condition,
    )
    for start, key, *counters, visitors in connection.execute(groups):
        encoded = encode_counts({one: visitors.count(one) for one in visitors}) if counted else encode_set(visitors)
        yield (site_id, interval, dimension, delta_no, start, key, *counters, encoded)
