"""A fault that no event can cause stops the job and is shown as itself; no event is marked, delayed or lost by it."""

from collections.abc import Iterator
from datetime import timedelta

import psycopg
import pytest

from admin_svc.counting import aggregate
from admin_svc.counting.aggregate import Aggregator
from admin_svc.counting.queue import PendingBatch, claim
from admin_svc.counting.visitor_numbers import VisitorNumbers
from common.db import Database, DatabaseFault
from common.errors import from_exception
from common.locks import site_lock
from common.migrate import migrate
from tests.support.processes import eventually
from tests.support.scheduling import MAKE_SITES, SITES, START, Bench
from tests.support.suite import database_on

_REFUSE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'not of an event' USING ERRCODE = '{sqlstate}'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON sessions FOR EACH ROW EXECUTE FUNCTION refuse()
"""
# Reading `attempts`, which only the claim does, fails with an error that elsewhere an event could cause.
_REFUSE_THE_CLAIM = """
CREATE FUNCTION refuse() RETURNS smallint LANGUAGE plpgsql STABLE AS
$$ BEGIN RAISE EXCEPTION 'not of an event' USING ERRCODE = '22003'; END $$;
ALTER TABLE pending_batches RENAME TO pending_rows;
CREATE VIEW pending_batches AS
SELECT site_id, partition, batch_id, first_ord, last_ord, refuse() AS attempts, received_at, not_before, last_error,
       replay FROM pending_rows
"""
_UNTOUCHED = "SELECT count(*) FROM pending_batches WHERE attempts = 0 AND last_error IS NULL AND not_before = %s"


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


@pytest.fixture
def aggregator(bench: Bench) -> Aggregator:
    return Aggregator(VisitorNumbers(bench.database()))


@pytest.mark.parametrize("sqlstate", ["42501", "42703", "42P01", "22P03", "22P04", "XX000", "23505", "0A000"])
def test_a_fault_of_schema_or_privileges_is_shown_and_no_event_is_blamed(
    bench: Bench, aggregator: Aggregator, sqlstate: str
) -> None:
    """Privilege, column, table, our own binary form, internal error: every batch waits as it was until it is mended."""
    bench.add(1, 12)
    bench.connection.execute(_REFUSE.format(sqlstate=sqlstate))
    with pytest.raises(psycopg.Error, match="not of an event") as caught:
        aggregator.aggregate(bench.connection, 1, START, 100)
    assert caught.value.sqlstate == sqlstate
    assert bench.connection.execute(_UNTOUCHED, (START,)).fetchone() == (12,)
    schedule = bench.schedule()
    schedule.run_once("aggregate")
    assert "not of an event" in str(bench.told(1)["aggregate"].error)
    assert (bench.count("pending_batches"), bench.count("failed_events")) == (12, 0)
    bench.connection.execute("DROP TRIGGER refuse ON sessions")
    schedule.run_once("aggregate")
    assert (bench.count("pending_batches"), bench.count("failed_events"), bench.count("visitors")) == (0, 0, 5)


@pytest.mark.parametrize("error", [TypeError("a defect"), psycopg.OperationalError("a defect")])
def test_an_error_of_our_own_code_or_connection_is_shown_and_no_event_is_blamed(
    bench: Bench, aggregator: Aggregator, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Such as a TypeError, which would hit every event, or a connection that is lost, which has no SQLSTATE."""
    bench.add(1, 3)

    def broken(*_: object) -> int:
        raise error

    monkeypatch.setattr(aggregate, "aggregate_batches", broken)
    with pytest.raises(type(error), match="a defect"):
        aggregator.aggregate(bench.connection, 1, START, 100)
    assert bench.connection.execute(_UNTOUCHED, (START,)).fetchone() == (3,)


@pytest.mark.parametrize("error", [ValueError("bad"), OverflowError("bad"), psycopg.DataError("bad")])
def test_an_error_that_a_value_can_cause_is_recorded_with_its_event(
    bench: Bench, aggregator: Aggregator, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Also one that no server raised: a DataError without SQLSTATE is a value that psycopg could not encode."""
    bench.add(1, 1)

    def broken(*_: object) -> int:
        raise error

    monkeypatch.setattr(aggregate, "aggregate_batches", broken)
    assert aggregator.aggregate(bench.connection, 1, START, 100).has_more
    recorded = bench.connection.execute("SELECT attempts, last_error FROM pending_batches").fetchall()
    assert [(attempts, "bad" in text) for attempts, text in recorded] == [(1, True)]


def test_an_error_before_the_claim_is_shown_as_itself(bench: Bench, aggregator: Aggregator) -> None:
    """Here a column that only the claim reads is not there; no second error hides that."""
    bench.add(1, 3)
    bench.connection.execute("ALTER TABLE pending_batches RENAME COLUMN attempts TO gone")
    with pytest.raises(psycopg.errors.UndefinedColumn, match="attempts"):
        aggregator.aggregate(bench.connection, 1, START, 100)


def test_an_error_of_the_claim_is_shown_as_itself_whatever_its_kind(bench: Bench, aggregator: Aggregator) -> None:
    """Without events that were claimed there is none to blame."""
    bench.add(1, 3)
    bench.connection.execute(_REFUSE_THE_CLAIM)
    with pytest.raises(psycopg.errors.NumericValueOutOfRange, match="not of an event"):
        aggregator.aggregate(bench.connection, 1, START, 100)


def test_a_failure_is_not_recorded_while_another_holds_the_site(bench: Bench) -> None:
    """A rebuild or an erasure may be replacing the very batches; the failure is found again afterwards."""
    bench.add(1, 1)
    other = bench.database()
    with bench.connection.transaction():
        claimed: list[PendingBatch] = claim(bench.connection, 1, 0, START, 100)
    with other.transaction() as holder:
        holder.execute("SELECT pg_advisory_xact_lock(%s, %s)", site_lock(1))
        chunk = aggregate._fail(bench.connection, 1, 0, claimed, START, ValueError("bad"))
        assert not chunk.has_more
        assert bench.connection.execute(_UNTOUCHED, (START,)).fetchone() == (1,)
    assert aggregate._fail(bench.connection, 1, 0, claimed, START, ValueError("bad")).has_more
    assert bench.connection.execute(_UNTOUCHED, (START,)).fetchone() == (0,)


def test_a_claim_ends_at_1000_batches(bench: Bench, aggregator: Aggregator) -> None:
    """However few events they hold; the next chunk goes on."""
    bench.add(1, 1_001)
    now = START + timedelta(hours=1)
    chunks = [aggregator.aggregate(bench.connection, 1, now, 50_000) for _ in range(3)]
    assert [chunk.done.aggregated for chunk in chunks] == [1_000, 1, 0]


def test_a_transaction_that_stood_still_too_long_is_a_fault_of_the_database(bench: Bench) -> None:
    """The server closes its connection (25P03): the call may be tried again, and nobody's data is to blame."""
    with psycopg.connect(bench.url.replace("+psycopg", "")) as idle:
        idle.execute("SET idle_in_transaction_session_timeout = 20")
        gone = "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = %s"
        eventually(lambda: bench.connection.execute(gone, (idle.info.backend_pid,)).fetchall() == [(True,)])
        with pytest.raises(psycopg.errors.IdleInTransactionSessionTimeout) as caught:
            idle.execute("SELECT 1")
    assert isinstance(caught.value, DatabaseFault)
    assert from_exception(caught.value).reason == "DATABASE_UNAVAILABLE"
