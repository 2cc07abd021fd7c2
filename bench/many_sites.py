"""Many small sites and a deep one: the cost of each job of the schedule, and how long a site waits for the other.

    python -m bench.many_sites [--scale 0.1] [--json FILE]

The jobs run in this process, one run after the other, on a database of 1,000 sites. First each site has one event; then
events come at a steady rate, spread over all sites; then all are idle; and at last a site that has one event comes
beside one with a backlog in four partitions. A second database has 250,000 events of 30 days on 200,000 paths.
"""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import Any

import psycopg

from admin_svc.counting.aggregate import Aggregator
from admin_svc.counting.visitor_numbers import VisitorNumbers
from admin_svc.schedule import jobs, runs
from admin_svc.schedule.schedule import Schedule
from bench.aggregate import drain
from bench.command_line import main, say
from bench.figures import Figure
from bench.own_suite import Stage, open_stage
from common.db import Database
from common.settings import Settings

PART = "many sites"
SITES = 1_000
EVENTS_A_SECOND = 414
_STEADY_SECONDS = 30.0
_DEEP_EVENTS = 200_000
_EVENTS_A_BATCH = 250
_PARTITIONS = 4
_WIDE_EVENTS = 250_000
_WIDE_PATHS = 200_000
_WIDE_DAYS = 30

ONE_EVENT_SECONDS = 5.0
WIDE_SECONDS = 30.0
IDLE_MILLISECONDS = 1_000.0

_MAKE_SITES = """
INSERT INTO sites (site_id, slug, name, status, session_timeout_us, retention_days, daily_rollup_retention_days,
                   dedupe_retention_us, rollup_shard_count, allowed_property_keys, denied_property_keys,
                   allowed_origins, created_at, updated_at)
SELECT 1000 + n, 'small-' || n, '', 1, 1800000000, 90, 90, 86400000000, 1, '{}', '{}', '{}', now(), now()
FROM generate_series(1, %(sites)s) AS n
"""
# Pending events: the numbers from `first` up to `first + count`, spread over `sites` sites from 1001 on.
_SPREAD = """
WITH made AS (
    INSERT INTO events (occurred_at, received_at, batch_id, site_id, ord, event_id, type, visitor_id, path, country)
    SELECT now(), now(), n, 1001 + n * 7919 %% %(sites)s, 0, gen_random_uuid(), 1, 'visitor ' || n %% 50000,
           '/' || n %% 20, 'DE'
    FROM generate_series(%(first)s::bigint, %(first)s + %(count)s - 1) AS n RETURNING site_id, batch_id
)
INSERT INTO pending_batches (site_id, partition, batch_id, first_ord, last_ord, received_at, not_before)
SELECT site_id, 0, batch_id, 0, 0, now(), now() FROM made
"""
# Pending events of one site, in batches, over some days and paths.
_DEEP = """
INSERT INTO events (occurred_at, received_at, batch_id, site_id, ord, event_id, type, visitor_id, session_id, path,
                    country, browser)
SELECT now() - random() * %(days)s * interval '1 day', now(), %(first)s + n / %(size)s, %(site)s, n %% %(size)s,
       gen_random_uuid(), 1, 'visitor ' || (random() * %(visitors)s)::int, '',
       '/articles/' || CASE WHEN n < %(paths)s THEN n ELSE floor(random() * %(paths)s) END,
       'C' || (random() * 50)::int, 'browser ' || n %% 5
FROM generate_series(0, %(count)s - 1) AS n
"""
_DEEP_PENDING = """
INSERT INTO pending_batches (site_id, partition, batch_id, first_ord, last_ord, received_at, not_before)
SELECT %(site)s, batch_id %% %(partitions)s, batch_id, 0, max(ord), now(), now()
FROM events WHERE site_id = %(site)s GROUP BY batch_id
"""
_PENDING = "SELECT count(*) FROM pending_batches"

Connection = psycopg.Connection[Any]


def measure(scale: float) -> list[Figure]:
    """Measures on suites of its own, whose processes do nothing."""
    figures = []
    with open_stage() as stage, stage.database() as connection, _schedule(stage) as schedule:
        connection.execute(_MAKE_SITES, {"sites": SITES})
        figures += _one_event_each(connection, schedule)
        figures += _steady(connection, schedule, scale)
        figures += _idle(connection, schedule)
        figures += _beside_a_deep_site(connection, schedule, scale)
    with open_stage() as stage:
        figures += _many_paths(stage, scale)
    return figures


def _one_event_each(connection: Connection, schedule: Schedule) -> list[Figure]:
    connection.execute(_SPREAD, {"sites": SITES, "first": 1, "count": SITES})
    _settle(connection)
    seconds = _drain(connection, schedule)
    say(f"many sites: {SITES:,} events of as many sites in {seconds:.1f} s")
    return [Figure(PART, f"{SITES:,} sites with one event each", seconds, "s", ONE_EVENT_SECONDS, at_least=False)]


def _steady(connection: Connection, schedule: Schedule, scale: float) -> list[Figure]:
    """Events come at a steady rate while aggregation runs. Halves of the time are compared."""
    began, sent, longest = time.monotonic(), 0, [0, 0]
    seconds = _STEADY_SECONDS * scale
    while (now := time.monotonic() - began) < seconds:
        due = round(now * EVENTS_A_SECOND) - sent
        if due:
            connection.execute(_SPREAD, {"sites": SITES, "first": 10_000_000 + sent, "count": due})
            sent += due
        half = int(2 * now / seconds)
        longest[half] = max(longest[half], _pending(connection))
        schedule.run_once("aggregate")
    rest = _drain(connection, schedule)
    say(f"many sites: at {EVENTS_A_SECOND} events/s {longest} were pending at most in each half")
    return [
        Figure(PART, f"pending at most, first half, {EVENTS_A_SECOND} events/s", longest[0], "events"),
        Figure(PART, "pending at most, second half", longest[1], "events"),
        Figure(PART, "until the last is aggregated", rest, "s"),
    ]


def _idle(connection: Connection, schedule: Schedule) -> list[Figure]:
    """The second run of each job: the first may still find something to do."""
    figures = []
    _settle(connection)
    for name in ("aggregate", runs.COMPACT, "retry", "cleanup", "prune"):
        _timed(schedule, name)
        if name == runs.COMPACT:
            first = _drain_deltas(connection, schedule)
            figures.append(Figure(PART, f"compaction of {SITES:,} small sites", first, "s"))
        figures.append(
            Figure(
                PART,
                f"an idle run of {name}",
                1_000 * min(_timed(schedule, name) for _ in range(3)),
                "ms",
                IDLE_MILLISECONDS,
                at_least=False,
            )
        )
    return figures


def _beside_a_deep_site(connection: Connection, schedule: Schedule, scale: float) -> list[Figure]:
    """How long one event waits that comes while the deep site is aggregated, in a run that is under way."""
    import threading

    parameters = {"site": 1001, "first": 1 << 40, "size": _EVENTS_A_BATCH, "days": 1, "paths": 2_000}
    count = round(_DEEP_EVENTS * scale)
    connection.execute(_DEEP, {**parameters, "count": count, "visitors": count // 5})
    connection.execute(_DEEP_PENDING, {"site": 1001, "partitions": _PARTITIONS})
    _settle(connection)
    began = time.monotonic()
    worker = threading.Thread(target=lambda: _drain_quietly(schedule))
    waits = []
    worker.start()
    for turn in range(5):
        time.sleep(1.0)
        connection.execute(_SPREAD, {"sites": 1, "first": (1 << 41) + turn, "count": 0})
        at = time.monotonic()
        connection.execute(
            _SPREAD.replace("1001 + n * 7919 %% %(sites)s", "1002"), {"sites": 1, "first": (1 << 41) + turn, "count": 1}
        )
        while connection.execute("SELECT count(*) FROM pending_batches WHERE site_id = 1002").fetchone() != (0,):
            time.sleep(0.02)
        waits.append(time.monotonic() - at)
        if not worker.is_alive():
            break
    worker.join()
    seconds = time.monotonic() - began
    say(f"many sites: one event beside a deep site waited {[round(wait, 2) for wait in waits]} s")
    return [
        Figure(PART, "longest wait of one event beside a deep site", max(waits), "s"),
        Figure(PART, "events of the deep site", count / seconds, "events/s"),
    ]


def _drain_quietly(schedule: Schedule) -> None:
    for _ in range(3):
        schedule.run_once("aggregate")


def _many_paths(stage: Stage, scale: float) -> list[Figure]:
    events, paths = round(_WIDE_EVENTS * scale), round(_WIDE_PATHS * scale)
    stage.create_site("wide")
    site = stage.site_id("wide")
    with stage.database() as connection:
        connection.execute("SELECT setseed(0.5)")
        parameters = {"site": site, "first": 1, "size": _EVENTS_A_BATCH, "days": _WIDE_DAYS, "paths": paths}
        connection.execute(_DEEP, {**parameters, "count": events, "visitors": events // 20})
        connection.execute(_DEEP_PENDING, {"site": site, "partitions": 1})
        _settle(connection)
    began = time.monotonic()
    assert drain(stage.connection, "wide") == events
    seconds = time.monotonic() - began
    say(f"many sites: {events:,} events of {_WIDE_DAYS} days on {paths:,} paths in {seconds:.1f} s")
    name = f"{_WIDE_EVENTS:,} events of {_WIDE_DAYS} days, {_WIDE_PATHS:,} paths"
    return [Figure(PART, name, seconds, "s", WIDE_SECONDS, at_least=False)]


@contextmanager
def _schedule(stage: Stage) -> Iterator[Schedule]:
    settings = Settings(database_url=stage.database_url)
    with closing(Database(stage.database_url, application="bench")) as db:
        made = jobs.jobs(settings, Aggregator(VisitorNumbers(db)))
        yield Schedule(
            db,
            made,
            lambda: datetime.now(UTC),
            run_seconds=settings.run_seconds,
            run_chunks=settings.run_pages,
        )


def _drain(connection: Connection, schedule: Schedule) -> float:
    """Runs aggregation until nothing is pending. Returns the seconds it took."""
    began = time.monotonic()
    while _pending(connection):
        schedule.run_once("aggregate")
    return time.monotonic() - began


def _drain_deltas(connection: Connection, schedule: Schedule) -> float:
    began = time.monotonic()
    while connection.execute("SELECT FROM rollup_shards WHERE delta_no > 0 LIMIT 1").fetchone() is not None:
        schedule.run_once(runs.COMPACT)
    return time.monotonic() - began


def _timed(schedule: Schedule, name: str) -> float:
    began = time.monotonic()
    schedule.run_once(name)
    return time.monotonic() - began


def _pending(connection: Connection) -> int:
    row = connection.execute(_PENDING).fetchone()
    assert row is not None
    return int(row[0])


def _settle(connection: Connection) -> None:
    connection.execute("VACUUM ANALYZE")


if __name__ == "__main__":
    main(__doc__, measure)
