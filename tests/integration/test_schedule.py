"""The schedule: bounded runs, sites in turns, one process at a time for a job of a site, and a row of what was done."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from typing import NamedTuple

import pytest

from admin_svc.chunk import Chunk
from admin_svc.schedule import runs
from admin_svc.schedule.jobs import Job
from admin_svc.schedule.schedule import Schedule
from common.db import Database, DatabaseFault
from common.locks import job_lock
from common.migrate import migrate
from tests.support.cuts import end_backend
from tests.support.poison import POISON
from tests.support.scheduling import MAKE_SITES, SITES, START, Bench, Connection
from tests.support.suite import database_on


@pytest.fixture
def bench(postgres_url: str) -> Iterator[Bench]:
    with database_on(postgres_url) as url:
        db = Database(url, application="test")
        migrate(db)
        with db.connection() as connection:
            connection.execute(MAKE_SITES, {"sites": list(SITES), "now": START})
            made = Bench(url, connection, opened=[db])
            yield made
        for opened in made.opened:
            opened.close()


class Ticks(NamedTuple):
    """What a chunk of a test's own job did."""

    rows: int


def did(rows: int, has_more: bool) -> Chunk[Ticks]:
    return Chunk(Ticks(rows), has_more)


def ticking(bench: Bench, chunk: Callable[[Connection, int], Chunk[Ticks]], name: str = runs.COMPACT) -> Job:
    """A job on all sites whose chunk is the test's."""
    return Job(
        name, "ticks", 1.0, lambda *_: list(SITES), lambda connection, site_id, *_: chunk(connection, site_id), limit=1
    )


def test_a_run_of_each_job_does_its_work_and_is_told(bench: Bench) -> None:
    """Aggregation, compaction, retry, cleanup and prune, one after another; by site, and prune for all of them."""
    schedule = bench.schedule()
    bench.add(1, 20)
    bench.add(2, 10)
    schedule.run_once("aggregate")
    assert bench.count("pending_batches") == 0
    schedule.run_once(runs.COMPACT)
    assert bench.connection.execute("SELECT count(*) FROM rollup_shards WHERE delta_no > 0").fetchone() == (0,)
    bench.connection.execute(
        "INSERT INTO ingest_dedupes SELECT %s, 1, gen_random_uuid() FROM generate_series(1, 7)", (START,)
    )
    schedule.run_once("prune")
    bench.connection.execute(
        "INSERT INTO failed_events SELECT 1, batch_id, 0, 0, 3, %s, %s, 'x' FROM events WHERE site_id = 1 LIMIT 3",
        (START, START),
    )
    bench.now += timedelta(minutes=59)
    schedule.run_once("retry")
    assert bench.count("failed_events") == 3
    bench.now += timedelta(minutes=1)
    schedule.run_once("retry")
    assert bench.count("failed_events") == 0
    bench.connection.execute("DELETE FROM pending_batches")
    bench.now += timedelta(days=200)
    schedule.run_once("cleanup")
    assert (bench.count("events"), bench.count("sessions"), bench.count("visitors")) == (0, 0, 10)
    told = bench.told(1)
    assert sorted(told) == ["aggregate", "cleanup", runs.COMPACT, "retry"]
    assert (told["aggregate"].rows, told["retry"].rows) == (20, 3)
    assert all(run.error is None and run.chunks > 0 for run in told.values())
    assert bench.told(runs.ALL_SITES)["prune"].rows == 7
    assert bench.told(2)["aggregate"].rows == 10
    assert bench.told(3) == {}


def test_a_run_ends_after_its_chunks_and_the_next_one_goes_on(bench: Bench) -> None:
    """However much there is to do."""
    calls: list[int] = []

    def chunk(_: Connection, site_id: int) -> Chunk[Ticks]:
        calls.append(site_id)
        return did(1, True)

    schedule = bench.schedule(chunks=7, made=[ticking(bench, chunk)])
    for run in range(1, 4):
        schedule.run_once(runs.COMPACT)
        assert len(calls) == 7 * run
    # Round and round: whoever came last is behind the others in the next run.
    assert calls == [SITES[n % 3] for n in range(21)]


def test_a_run_ends_after_its_time_and_sites_take_turns(bench: Bench) -> None:
    """A run with time for one chunk only: the next run is for the next site, though the first has more to do."""
    calls: list[int] = []

    def chunk(connection: Connection, site_id: int) -> Chunk[Ticks]:
        calls.append(site_id)
        connection.execute("SELECT pg_sleep(0.02)")
        return did(1, True)

    schedule = bench.schedule(seconds=0.01, made=[ticking(bench, chunk)])
    for _ in range(6):
        schedule.run_once(runs.COMPACT)
    assert calls == [1, 2, 3, 1, 2, 3]


def test_a_site_that_fails_does_not_hold_up_the_others_and_its_error_is_told(bench: Bench) -> None:
    """Until a run of it goes well again."""
    schedule = bench.schedule()
    for site_id in SITES:
        bench.add(site_id, 5)
    schedule.run_once("aggregate")
    bench.connection.execute(
        """
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'not this one'; END $$;
        CREATE TRIGGER refuse BEFORE DELETE ON rollup_shards FOR EACH ROW WHEN (OLD.site_id = 2)
        EXECUTE FUNCTION refuse();
        """
    )
    schedule.run_once(runs.COMPACT)
    uncompacted = "SELECT DISTINCT site_id FROM rollup_shards WHERE delta_no > 0"
    assert bench.connection.execute(uncompacted).fetchall() == [(2,)]
    assert "not this one" in str(bench.told(2)[runs.COMPACT].error)
    assert bench.told(1)[runs.COMPACT].error is bench.told(3)[runs.COMPACT].error is None
    bench.connection.execute("DROP TRIGGER refuse ON rollup_shards")
    bench.now += timedelta(seconds=2)
    schedule.run_once(runs.COMPACT)
    assert bench.connection.execute(uncompacted).fetchall() == []
    assert bench.told(2)[runs.COMPACT].error is None


@pytest.mark.parametrize("name", [runs.COMPACT, "retry", "cleanup"])
def test_one_process_at_a_time_does_a_job_of_a_site(bench: Bench, name: str) -> None:
    """While one holds its lock another leaves that site alone, does the others, and waits for nobody; when the first
    one's connection is killed, it takes over."""
    one, two = bench.schedule(), bench.schedule()
    number = {runs.COMPACT: 2, "retry": 3, "cleanup": 4}[name]
    table = {runs.COMPACT: "rollup_shards", "retry": "failed_events", "cleanup": "events"}[name]
    condition = "WHERE delta_no > 0" if name == runs.COMPACT else ""
    for site_id in SITES:
        bench.add(site_id, 5)
    one.run_once("aggregate")
    if name == "retry":
        bench.connection.execute(
            "INSERT INTO failed_events SELECT site_id, batch_id, 0, 0, 3, %s, %s, 'x' FROM events",
            (START - timedelta(days=1), START - timedelta(days=1)),
        )
    elif name == "cleanup":
        bench.now += timedelta(days=200)
    left = f"SELECT DISTINCT site_id FROM {table} {condition} ORDER BY 1"
    assert bench.connection.execute(left).fetchall() == [(1,), (2,), (3,)]
    # At the end of the block the transaction has been lost with its backend.
    with bench.database().connection() as busy, suppress(*DatabaseFault), busy.transaction():
        busy.execute("SELECT pg_advisory_xact_lock(%s, %s)", job_lock(2, number))
        two.run_once(name)
        assert bench.connection.execute(left).fetchall() == [(2,)]
        assert name not in bench.told(2)
        two.run_once(name)
        assert bench.connection.execute(left).fetchall() == [(2,)]
        end_backend(bench.connection, busy.info.backend_pid)
    two.run_once(name)
    assert bench.connection.execute(left).fetchall() == []
    assert bench.told(2)[name].rows >= 5


def test_two_processes_at_once_aggregate_compact_and_clean_up_everything_once(bench: Bench) -> None:
    """Both at every job at the same time: what they tell adds up to what there was."""
    one, two = bench.schedule(chunks=40), bench.schedule(chunks=40)
    for site_id in SITES:
        bench.add(site_id, 300)
    with ThreadPoolExecutor() as pool:
        for name in ("aggregate", runs.COMPACT, "cleanup"):
            if name == "cleanup":
                bench.now += timedelta(days=200)
            before = bench.count("events")
            list(pool.map(lambda schedule, job=name: schedule.run_once(job), (one, two)))
            if name == "aggregate":
                assert bench.count("pending_batches") == 0
                totals = "SELECT sum(events) FROM rollup_shards WHERE dimension = 0 AND interval = 1"
                assert bench.connection.execute(totals).fetchone() == (before,)
    assert (bench.count("events"), bench.count("sessions")) == (0, 0)
    days = "SELECT sum(events), sum(sessions) FROM rollup_shards WHERE dimension = 0 AND interval = 2"
    assert bench.connection.execute(days).fetchone() == (900, 15)


def test_a_connection_that_is_lost_ends_the_run_and_the_next_one_goes_on(bench: Bench) -> None:
    """What was done before is told, and so is what it ended with."""
    killed: list[int] = []

    def chunk(connection: Connection, site_id: int) -> Chunk[Ticks]:
        if site_id == 2 and not killed:
            killed.append(site_id)
            end_backend(bench.connection, connection.info.backend_pid)
        connection.execute("SELECT 1")
        return did(1, False)

    schedule = bench.schedule(made=[ticking(bench, chunk)])
    schedule.run_once(runs.COMPACT)
    assert bench.told(1)[runs.COMPACT].rows == 1
    assert bench.told(2)[runs.COMPACT].error != ""
    assert bench.told(3) == {}
    bench.now += timedelta(seconds=2)
    schedule.run_once(runs.COMPACT)
    assert bench.told(2)[runs.COMPACT].error is None
    assert bench.told(3)[runs.COMPACT].rows == 1


def test_a_poisoned_batch_of_one_site_leaves_the_others_aggregated(bench: Bench) -> None:
    """The aggregate job takes it apart within its runs and tells what it aggregated and what became a dead letter."""
    bench.connection.execute(
        f"""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'poison'; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON sessions FOR EACH ROW WHEN (NEW.page = '{POISON}')
        EXECUTE FUNCTION refuse();
        """
    )
    schedule = bench.schedule()
    bench.add(1, 1, path=POISON, at=START - timedelta(days=1))
    bench.add(1, 20)
    bench.add(2, 20)
    for _ in range(3):
        schedule.run_once("aggregate")
        bench.now += timedelta(seconds=20)
    assert bench.count("failed_events", 1) == 1
    assert bench.count("pending_batches") == 0
    assert bench.count("sessions", 2) == 5


def test_runs_within_a_minute_are_told_as_one(bench: Bench) -> None:
    """A row a minute however often a job runs; a run that fails, and the one after it, have rows of their own; a run
    that finds nothing to do has none."""
    outcome: list[Chunk[Ticks] | Exception] = [did(2, False)]

    def chunk(_: Connection, site_id: int) -> Chunk[Ticks]:
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        return outcome[0] if site_id == 1 else did(0, False)

    schedule = bench.schedule(made=[ticking(bench, chunk)])
    for _ in range(90):
        schedule.run_once(runs.COMPACT)
        bench.now += timedelta(seconds=1)
    stored = "SELECT pages, rows, error IS NULL FROM job_runs WHERE site_id = 1 ORDER BY started_at"
    assert bench.connection.execute(stored).fetchall() == [(60, 120, True), (30, 60, True)]
    outcome[0] = RuntimeError("broken")
    schedule.run_once(runs.COMPACT)
    assert bench.told(1)[runs.COMPACT].error == "RuntimeError: broken"
    outcome[0] = did(1, False)
    bench.now += timedelta(seconds=1)
    schedule.run_once(runs.COMPACT)
    assert [row[1:] for row in bench.connection.execute(stored).fetchall()[2:]] == [(0, False), (1, True)]
    outcome[0] = did(0, False)
    bench.now += timedelta(minutes=5)
    schedule.run_once(runs.COMPACT)
    assert bench.count("job_runs") == 4 + 2  # the broken run was of all three sites


def test_runs_are_forgotten_after_7_days(bench: Bench) -> None:
    """Of the same job and site; the last one is always told."""
    schedule = bench.schedule(made=[ticking(bench, lambda _, site_id: did(site_id % 2, False))])
    for _ in range(10):
        schedule.run_once(runs.COMPACT)
        bench.now += timedelta(days=1)
    ages = "SELECT max(%(now)s - started_at) FROM job_runs WHERE site_id = 1"
    oldest = bench.connection.execute(ages, {"now": bench.now}).fetchall()[0][0]
    assert oldest == timedelta(days=8)
    assert bench.count("job_runs", 1) == 8


def test_an_interval_of_0_switches_a_job_off_and_aggregate_off_only_aggregation(bench: Bench) -> None:
    """The RPCs work all the same; the others keep their intervals."""
    off = bench.jobs(aggregate=False, fold_seconds=0, retry_seconds=0, cleanup_seconds=0, prune_seconds=0)
    assert {job.name: job.seconds for job in off} == dict.fromkeys(runs.JOBS, 0)
    assert Schedule(bench.database(), off, bench.clock, run_seconds=1, run_chunks=1)._scheduler.get_jobs() == []
    some = bench.jobs(aggregate=False, fold_seconds=3)
    on = Schedule(bench.database(), some, bench.clock, run_seconds=1, run_chunks=1)
    assert {job.id for job in on._scheduler.get_jobs()} == set(runs.JOBS) - {"aggregate"}
