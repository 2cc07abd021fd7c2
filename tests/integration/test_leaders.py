"""The leaders of a top list by events are the same as if every key's events were summed up."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from common.db import Database
from common.dimensions import EXIT_PAGE
from common.migrate import migrate
from query_svc import key_sql, top_by_events
from query_svc.range_plan import RangePlan, plan_range
from tests.support.suite import database_on

START = datetime(2026, 3, 1, tzinfo=UTC)
DAYS = 4
# Four whole days, and seven hours of the next.
PLAN = plan_range([START], START + timedelta(days=DAYS, hours=7))

_INSERT = """
INSERT INTO rollup_shards (site_id, interval, dimension, bucket_start, key, delta_no, events, pageviews, sessions,
                           bounces, duration_us, new_visitors)
VALUES (%s, %s, %s, %s, %s, %s, %s, 0, 1, 0, 0, 0)
"""
_HOUR, _DAY = 1, 2


@pytest.fixture
def connection(postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    with database_on(postgres_url) as url:
        db = Database(url, application="test")
        migrate(db)
        with db.connection() as raw:
            yield raw
        db.close()


def store(connection: psycopg.Connection[Any], rows: list[tuple[int, datetime, str, int, int]]) -> None:
    """Replaces all rollup rows: interval, start, key, delta_no and events of each. Another site has some too."""
    connection.execute("TRUNCATE rollup_shards")
    values = [(1, interval, EXIT_PAGE.number, *row) for interval, *row in rows]
    values += [(2, interval, EXIT_PAGE.number, *row[:-1], 1_000_000) for interval, *row in rows[:5]]
    with connection.cursor() as cursor:
        cursor.executemany(_INSERT, values)


def compare(connection: psycopg.Connection[Any], limit: int, plan: RangePlan = PLAN) -> bool:
    """Whether the leaders were found; they must be what summing up everything gives."""
    parameters = {**key_sql.parameters(1, EXIT_PAGE, plan), "limit": limit}
    found = top_by_events.first_by_events(connection, EXIT_PAGE, plan, parameters)
    expected = connection.execute(key_sql.counters_per_key(EXIT_PAGE, plan, "events"), parameters).fetchall()
    assert found is None or found == expected
    return found is not None


def day_rows(events_of: list[int]) -> list[tuple[int, datetime, str, int, int]]:
    """Every day the same: the events of keys 000, 001 …"""
    return [
        (_DAY, START + timedelta(days=day), f"{number:03}", 0, events)
        for day in range(DAYS)
        for number, events in enumerate(events_of)
    ]


def test_leaders_of_any_rows_are_right_or_not_told(
    connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few values, so that there are ties; deltas that take away; hours beside whole days; keys that are nowhere
    among a day's first."""
    monkeypatch.setattr(top_by_events, "FEW_KEYS", 1)
    dice, told = random.Random(5), 0
    for _ in range(60):
        rows = {(_DAY, START + timedelta(days=DAYS - 1), "a", 0): 3}
        for _ in range(dice.randint(1, 150)):
            key = f"{min(dice.randrange(40), dice.randrange(40)):02}"
            start = START + timedelta(days=dice.randrange(DAYS))
            rows[_DAY, start, key, 0] = dice.choice((1, 1, 2, 3, 30))
            if dice.random() < 0.3:
                rows[_HOUR, start + timedelta(hours=dice.randrange(24)), key, dice.randint(1, 3)] = dice.choice(
                    (-1, 1, 5)
                )
            if dice.random() < 0.3:
                rows[_HOUR, START + timedelta(days=DAYS, hours=dice.randrange(7)), key, 0] = dice.choice((1, 4, 20))
        store(connection, [(*place, events) for place, events in rows.items()])
        told += sum(compare(connection, limit) for limit in (1, 2, 5))
    assert told > 60, "most of them should have been told"


def test_many_keys_with_clear_leaders_are_not_summed_up(connection: psycopg.Connection[Any]) -> None:
    store(connection, day_rows([10_000 // (rank + 1) for rank in range(top_by_events.FEW_KEYS + 100)]))
    assert compare(connection, 10)


def test_keys_that_are_all_alike_are_summed_up(connection: psycopg.Connection[Any]) -> None:
    """What was not looked at may be as large as what was."""
    store(connection, day_rows([7] * (top_by_events.FEW_KEYS + 100)))
    assert not compare(connection, 10)


def test_a_key_that_is_never_among_a_days_first_can_lead_the_range(
    connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Second every day behind ever new ones: with one asked for, three a day are looked at, so it is put fourth."""
    monkeypatch.setattr(top_by_events, "FEW_KEYS", 1)
    rows = [(_DAY, START + timedelta(days=day), "steady", 0, 90) for day in range(DAYS)]
    rows += [(_DAY, START + timedelta(days=day), f"{day}-{n}", 0, 100) for day in range(DAYS) for n in range(3)]
    store(connection, rows)
    assert not compare(connection, 1)
