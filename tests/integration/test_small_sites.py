"""Small sites share a transaction of aggregation, and none of them feels the others."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest

from admin_svc.counting.aggregate import Aggregator
from admin_svc.counting.small_sites import MOST_BATCHES, aggregate_small_sites, small_sites
from admin_svc.counting.visitor_numbers import VisitorNumbers
from common.db import Database
from common.locks import partition_lock, site_lock
from common.migrate import migrate
from tests.support.cuts import cut_everywhere
from tests.support.poison import POISON
from tests.support.scheduling import MAKE_SITES, START, Bench
from tests.support.suite import database_on

SMALL = tuple(range(1, 31))
LATER = START + timedelta(hours=1)
_DERIVED = ("visitors", "sessions", "rollup_shards", "pending_batches")
_REFUSE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION '{text}' USING ERRCODE = '{sqlstate}'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON sessions FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION refuse();
"""


@pytest.fixture
def bench(postgres_url: str) -> Iterator[Bench]:
    with database_on(postgres_url) as url:
        db = Database(url, application="test")
        migrate(db)
        with db.connection() as connection:
            connection.execute(MAKE_SITES, {"sites": list(SMALL), "now": START})
            made = Bench(url, connection, now=LATER, opened=[db])
            yield made
        for opened in made.opened:
            opened.close()


@pytest.fixture
def numbers(bench: Bench) -> VisitorNumbers:
    return VisitorNumbers(bench.database())


def derived(bench: Bench) -> dict[str, list[Any]]:
    """All derived rows, without what two ways of aggregating may give differently: numbers of deltas."""
    bench.connection.execute("UPDATE rollup_shards SET delta_no = 1")
    return {
        table: sorted(bench.connection.execute(f"SELECT * FROM {table}").fetchall(), key=repr) for table in _DERIVED
    }


def copy_to_twins(bench: Bench, at: datetime) -> None:
    """Copies the pending events of sites 1 to 10 that came at that time to the sites ten numbers higher."""
    for table in ("events", "pending_batches"):
        columns = [one.name for one in bench.connection.execute(f"SELECT * FROM {table} LIMIT 0").description or ()]
        listed = ", ".join(columns)
        values = ", ".join("site_id + 10" if name == "site_id" else name for name in columns)
        bench.connection.execute(
            f"INSERT INTO {table} ({listed}) SELECT {values} FROM {table} WHERE site_id <= 10 AND received_at = %s",
            (at,),
        )


def test_together_and_alone_sites_get_the_same_rows(bench: Bench, numbers: VisitorNumbers) -> None:
    """With sessions that go on, in two rounds; the events are copied to sites of which each is aggregated alone."""
    for turn in range(2):
        for site_id in SMALL[:10]:
            bench.add(site_id, 3 + site_id, at=START + turn * timedelta(minutes=5))
        copy_to_twins(bench, START + turn * timedelta(minutes=5))
        together = small_sites(bench.connection, SMALL[:10], LATER)
        assert list(together) == list(SMALL[:10])
        done = aggregate_small_sites(bench.connection, numbers, together, LATER)
        assert done == {site_id: 3 + site_id for site_id in SMALL[:10]}
        alone = Aggregator(numbers)
        for site_id in SMALL[10:20]:
            assert alone.aggregate(bench.connection, site_id, LATER, 1_000).done.aggregated == site_id - 7
    assert bench.count("pending_batches") == 0
    rows = derived(bench)
    for table in ("visitors", "sessions", "rollup_shards"):
        columns = [one.name for one in bench.connection.execute(f"SELECT * FROM {table} LIMIT 0").description or ()]
        at = columns.index("site_id")
        first = [row for row in rows[table] if row[at] <= 10]
        twins = [(*row[:at], row[at] - 10, *row[at + 1 :]) for row in rows[table] if row[at] > 10]
        assert first, table
        assert first == sorted(twins, key=repr), table


def test_a_site_that_another_holds_is_left_out(bench: Bench, numbers: VisitorNumbers) -> None:
    """Its partition by another worker, or the site by an erasure or a rebuild; the others do not wait for it."""
    for site_id in SMALL:
        bench.add(site_id, 1)
    found = small_sites(bench.connection, SMALL, LATER)
    with bench.database().transaction() as other:
        other.execute("SELECT pg_advisory_xact_lock(%s, %s)", partition_lock(3, 0))
        other.execute("SELECT pg_advisory_xact_lock(%s, %s)", site_lock(7))
        bench.connection.execute("UPDATE sites SET status = 3 WHERE site_id = 9")
        done = aggregate_small_sites(bench.connection, numbers, found, LATER)
    assert done.keys() == {*SMALL} - {3, 7, 9}
    assert bench.count("pending_batches") == 3


def test_what_is_not_small_or_has_failed_is_done_alone(bench: Bench) -> None:
    for site_id in (1, 2, 3, 4):
        bench.add(site_id, 2)
    bench.add(2, MOST_BATCHES)
    bench.connection.execute("UPDATE pending_batches SET last_error = 'x' WHERE site_id = 3")
    bench.connection.execute("UPDATE pending_batches SET replay = true WHERE site_id = 4")
    assert small_sites(bench.connection, (4, 3, 2, 1), LATER) == {1: [0]}


@pytest.mark.parametrize("sqlstate", ["P0001", "42501"])
def test_a_site_that_fails_does_not_fail_the_others(
    bench: Bench, caplog: pytest.LogCaptureFixture, sqlstate: str
) -> None:
    """Because of an event, or because of a fault of its own: all others are aggregated in the same run. In the next
    runs it is not among them, so that they do not fail again."""
    schedule = bench.schedule()
    refuse = _REFUSE.format(text="not this one", sqlstate=sqlstate, when="NEW.site_id = 5")
    bench.connection.execute(refuse)
    for _ in range(2):
        for site_id in SMALL:
            bench.add(site_id, 2)
        schedule.run_once("aggregate")
        left = "SELECT DISTINCT site_id FROM pending_batches UNION SELECT site_id FROM failed_events"
        assert bench.connection.execute(left).fetchall() == [(5,)]
    assert sum("small sites failed" in record.getMessage() for record in caplog.records) == 1
    bench.connection.execute("DROP TRIGGER refuse ON sessions")
    bench.now += timedelta(minutes=2)
    schedule.run_once("aggregate")
    assert (bench.count("pending_batches"), bench.count("failed_events")) == (0, 0)
    assert bench.count("visitors") == 2 * len(SMALL)


def test_a_poison_event_fails_alone_among_small_sites(bench: Bench) -> None:
    schedule = bench.schedule()
    bench.connection.execute(
        _REFUSE.format(text="this is poison", sqlstate="P0001", when=f"NEW.entry_page = '{POISON}'")
    )
    for site_id in SMALL:
        bench.add(site_id, 2)
    bench.add(5, 1, path=POISON, at=START - timedelta(hours=2))
    for seconds in (0, 5, 10):
        bench.now += timedelta(seconds=seconds)
        schedule.run_once("aggregate")
    assert (bench.count("pending_batches"), bench.count("failed_events")) == (0, 1)
    assert bench.connection.execute("SELECT sum(events) FROM sessions").fetchone() == (2 * len(SMALL),)


def test_a_chunk_of_small_sites_cut_after_any_statement_leaves_nothing_behind(
    bench: Bench, numbers: VisitorNumbers
) -> None:
    """Until its COMMIT nothing of any site is there, all of it is pending, and the next try aggregates it once."""
    for site_id in SMALL[:3]:
        bench.add(site_id, 2)

    def work(scissors: Any) -> None:
        with scissors.connection() as connection:
            aggregate_small_sites(connection, numbers, small_sites(connection, SMALL, LATER), LATER)

    assert cut_everywhere(bench.url, work, lambda: derived(bench)) >= 20
    assert bench.count("pending_batches") == 0
    assert bench.connection.execute("SELECT sum(events) FROM sessions").fetchone() == (6,)


@pytest.mark.parametrize("partitions", [1, 4])
def test_a_single_event_waits_for_one_chunk_of_deep_sites(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, partitions: int
) -> None:
    """Also if it comes while the backlog is worked on; and the backlog does not wait for small sites."""
    for deep in (1, 3):
        bench.add(deep, 200)
    bench.connection.execute("UPDATE pending_batches SET partition = batch_id %% %s", (partitions,))
    [job] = [job._replace(limit=10) for job in bench.jobs() if job.name == "aggregate"]
    waiting: list[int] = []
    original = job.chunk

    def chunk(connection: psycopg.Connection[Any], site_id: int, *rest: Any) -> Any:
        waiting.append(bench.count("pending_batches", 2))
        done = original(connection, site_id, *rest)
        bench.add(2, 1, at=LATER)
        return done

    schedule = bench.schedule(made=[job._replace(chunk=chunk)])
    schedule.run_once("aggregate")
    assert len(waiting) >= 2 * (200 - MOST_BATCHES) // 10
    assert max(waiting) == 0
    assert bench.count("pending_batches", 1) + bench.count("pending_batches", 3) == 0
