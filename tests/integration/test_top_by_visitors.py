"""A top list by visitors is the same as if every key's sets were united, and unites few of them."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from common.db import Database
from common.dimensions import EXIT_PAGE, PAGE, Dimension
from common.migrate import migrate
from common.visitor_sets import cardinality_sql, encode_counts, encode_set
from query_svc import key_rows, key_sql, top_by_visitors
from query_svc.range_plan import plan_range
from query_svc.top_by_visitors import first_by_visitors
from query_svc.top_keys import first_keys
from tests.support.suite import database_on

START = datetime(2026, 3, 1, tzinfo=UTC)
DAYS = 4
# Four whole days, and seven hours of the next.
PLAN = plan_range([START], START + timedelta(days=DAYS, hours=7))

_INSERT = """
INSERT INTO rollup_shards (site_id, interval, dimension, bucket_start, key, delta_no, events, pageviews, sessions,
                           bounces, duration_us, new_visitors, visitors)
VALUES (%s, %s, %s, %s, %s, %s, %s, 0, %s, 0, 0, 0, %s)
"""
_HOUR, _DAY = 1, 2
Place = tuple[int, datetime, str, int]
"""Interval, start, key and delta number."""


@pytest.fixture(scope="module")
def db(postgres_url: str) -> Iterator[Database]:
    with database_on(postgres_url) as url:
        made = Database(url, application="test")
        migrate(made)
        yield made
        made.close()


def store(db: Database, dimension: Dimension, rows: dict[Place, Counter[int]]) -> None:
    """Replaces all rollup rows; of each the counts of its visitors' events (sessions). Another site has some too."""
    values: list[tuple[Any, ...]] = []
    for (interval, start, key, delta_no), visitors in rows.items():
        total = sum(visitors.values())
        row = encode_set(set(visitors)) if dimension is PAGE else encode_counts(visitors)
        place = (interval, dimension.number, start, key, delta_no)
        values.append((1, *place, total, 0 if dimension is PAGE else total, row if visitors else None))
        values.append((2, *place, 1, 1, encode_set(range(900)) if dimension is PAGE else encode_counts({1: 1})))
    with db.transaction() as connection, connection.cursor() as cursor:
        cursor.execute("TRUNCATE rollup_shards")
        cursor.executemany(_INSERT, values)


def expected(dimension: Dimension, rows: dict[Place, Counter[int]], limit: int) -> list[tuple[str, int]]:
    """By uniting all sets of every key."""
    visitors: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for (_, _, key, _), row in rows.items():
        visitors[key].update(row)
    keys = {key: sum(count > 0 for count in row.values()) for key, row in visitors.items() if sum(row.values())}
    return sorted(keys.items(), key=lambda item: (-item[1], item[0].encode()))[:limit]


def found(db: Database, dimension: Dimension, limit: int) -> list[tuple[str, int]]:
    with db.snapshot() as connection:
        parameters = {**key_sql.parameters(1, dimension, PLAN), "limit": limit}
        return first_by_visitors(connection, dimension, PLAN, parameters)


def random_rows(dice: random.Random, dimension: Dimension) -> dict[Place, Counter[int]]:
    """Few visitors, so that there are ties and unions that are much smaller than their sum; days, deltas and hours; in
    a session dimension deltas that take sessions away, from the same bucket and key as they are in."""
    rows: defaultdict[Place, Counter[int]] = defaultdict(Counter)
    several = dice.choice((3, 12, 200))
    for _ in range(dice.randint(1, 120)):
        key = f"{min(dice.randrange(40), dice.randrange(40)):02}"
        day = dice.randrange(DAYS + 1)
        start = START + timedelta(days=day)
        hour = start + timedelta(hours=dice.randrange(7))
        own = Counter(dice.randrange(several) for _ in range(dice.choice((1, 1, 2, 9, 80))))
        interval, at = (_DAY, start) if day < DAYS else (_HOUR, hour)
        rows[interval, at, key, 0] += own
        if dice.random() < 0.3:
            rows[_HOUR, hour, key, dice.randint(1, 3)] += Counter(dice.randrange(several) for _ in range(3))
        if dimension is EXIT_PAGE and dice.random() < 0.4:
            moved = dice.choice([*own])
            at = at if interval == _HOUR else hour
            rows[_HOUR, at, key, dice.randint(4, 6)].subtract([moved])
    # A counter that came to 0 is no part of a row.
    return {place: Counter({one: count for one, count in row.items() if count}) for place, row in rows.items()}


@pytest.mark.parametrize("dimension", [PAGE, EXIT_PAGE], ids=lambda dimension: dimension.column)
def test_the_first_of_any_rows_are_those_of_the_united_sets(
    db: Database, dimension: Dimension, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In batches of a few keys too, so that the list is settled in any of them."""
    dice = random.Random(11)
    for number in range(60):
        rows = random_rows(dice, dimension)
        store(db, dimension, rows)
        monkeypatch.setattr(top_by_visitors, "FIRST_BATCH", (0, 100)[number % 2])
        monkeypatch.setattr(top_by_visitors, "MOST_KEYS", (3, 5_000)[number % 3 == 0])
        monkeypatch.setattr(key_rows, "FEW_PROBES", (0, 5_000)[number % 5 < 2])
        monkeypatch.setattr(key_rows, "ROWS_A_PROBE", (0, 3)[number % 7 < 4])
        monkeypatch.setattr(key_rows, "FEW_BUCKETS", (0, 100)[number % 4 < 2])
        for limit in (1, 2, 5, 100):
            assert found(db, dimension, limit) == expected(dimension, rows, limit), (number, limit)


def test_the_rows_of_a_list_have_the_counters_of_their_keys(db: Database) -> None:
    dice = random.Random(3)
    rows = random_rows(dice, PAGE)
    store(db, PAGE, rows)
    events = Counter[str]()
    for (_, _, key, _), row in rows.items():
        events[key] += row.total()
    with db.snapshot() as connection:
        listed = first_keys(connection, 1, PAGE, PLAN, None, 5)
    assert [(key, visitors) for key, _, visitors in listed] == expected(PAGE, rows, 5)
    assert [counters.events for _, counters, _ in listed] == [events[key] for key, _, _ in listed]


@pytest.mark.parametrize(("dimension", "at_most"), [(PAGE, 25), (EXIT_PAGE, 2 * 10 + top_by_visitors.FIRST_BATCH)])
def test_the_sets_of_few_keys_are_read(
    db: Database, dimension: Dimension, at_most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 3,000 keys, each on two days: those that the bounds leave open, which are wider for a session dimension."""
    rows = {
        (_DAY, START + timedelta(days=day), f"{key:04}", 0): Counter(range(day, 3_000 // (key + 1) + 1 + day))
        for key in range(3_000)
        for day in range(2)
    }
    store(db, dimension, rows)
    read: list[str] = []

    def spy(*arguments: Any) -> dict[str, int]:
        read.extend(arguments[-1])
        return key_rows.visitors_of_keys(*arguments)

    monkeypatch.setattr(top_by_visitors, "visitors_of_keys", spy)
    assert found(db, dimension, 10) == expected(dimension, rows, 10)
    assert len(read) <= at_most


def test_keys_of_one_row_each_need_no_set_read(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head of the only set is its cardinality, so ties of any number of keys are settled by key."""
    rows = {(_DAY, START, f"{key:04}", 0): Counter([key, key + 1]) for key in range(500)}
    store(db, PAGE, rows)
    monkeypatch.setattr(
        top_by_visitors, "visitors_of_keys", lambda *given: pytest.fail(f"{given[-1]}") if given[-1] else {}
    )
    assert found(db, PAGE, 10) == expected(PAGE, rows, 10)


def test_no_more_sets_than_allowed_are_in_memory_at_once(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the bounds tell nothing: every key has the same visitors on every day."""
    rows = {
        (_DAY, START + timedelta(days=day), f"{key:03}", 0): Counter(range(9))
        for key in range(300)
        for day in range(DAYS)
    }
    store(db, PAGE, rows)
    at_once: list[int] = []

    def spy(*arguments: Any) -> dict[str, int]:
        at_once.append(len(arguments[-1]))
        return key_rows.visitors_of_keys(*arguments)

    monkeypatch.setattr(top_by_visitors, "visitors_of_keys", spy)
    monkeypatch.setattr(top_by_visitors, "MOST_KEYS", 50)
    assert found(db, PAGE, 5) == expected(PAGE, rows, 5)
    assert max(at_once) <= 50


def test_a_statement_tells_the_cardinality_of_any_set(db: Database) -> None:
    """As Python does: of lists and of bitmaps with and without runs, of one and of many containers."""
    dice = random.Random(7)
    sets: list[set[int]] = [{0}, {2**32 - 1}, set(range(64)), set(range(65)), set(range(200_000)), {70_000, 5}]
    sets += [{dice.randrange(2**32) for _ in range(size)} for size in (2, 70, 400, 3_000)]
    sets += [set(range(0, 200_000, step)) for step in (2, 30)]
    with db.connection() as connection:
        for visitors in sets:
            statement = f"SELECT {cardinality_sql('v.row')} FROM (SELECT %s::bytea AS row) AS v"
            row = connection.execute(statement, (encode_set(visitors),)).fetchone()
            assert row == (len(visitors),)
        assert connection.execute(f"SELECT {cardinality_sql('NULL::bytea')}").fetchone() == (0,)
