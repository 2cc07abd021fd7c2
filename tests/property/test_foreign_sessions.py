"""The laws hold whatever the session is like: on a database with defaults of its own, and behind a pooler that gives
each transaction to another session."""

import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from footfall.query.v1 import query_pb2
from hypothesis import given
from hypothesis import strategies as st

from cli.suite import running_suite
from common.connection import Connection
from common.db import Database, plain_url
from tests.property import examples
from tests.property.laws import assert_order_free, assert_recount
from tests.property.streams import Stream, streams
from tests.support.commands import footfall
from tests.support.footfall_site import FootfallSite
from tests.support.hands import Hands, hands_on
from tests.support.pgbouncer import pgbouncer_for, pgbouncer_or_skip
from tests.support.suite import Suite, database_on
from tests.support.traffic import assert_recounts, batch_of, made_up
from tests.support.upkeep import compact

FOREIGN = {
    "timezone": "Asia/Kolkata",
    "datestyle": "SQL, DMY",
    "intervalstyle": "iso_8601",
    "client_encoding": "LATIN1",
    "default_transaction_isolation": "serializable",
    "statement_timeout": "17",
    "lock_timeout": "17",
    "idle_in_transaction_session_timeout": "17",
    "jit": "on",
    "max_parallel_workers_per_gather": "4",
}
"""Defaults of a database with which Footfall would give wrong answers or none."""


@contextmanager
def foreign_database(server_url: str) -> Iterator[str]:
    """A new database whose sessions begin with FOREIGN."""
    with database_on(server_url) as url:
        name = sa.make_url(url).database
        with psycopg.connect(plain_url(server_url), autocommit=True) as connection:
            for setting, value in FOREIGN.items():
                connection.execute(f"ALTER DATABASE {name} SET {setting} = '{value}'")
        yield url


@pytest.fixture(scope="module", params=["direct", "pgbouncer"])
def foreign(request: pytest.FixtureRequest, postgres_url: str, open_folder: Path) -> Iterator[Suite]:
    """A suite on a foreign database."""
    behind = request.param == "pgbouncer"
    if behind:
        pgbouncer_or_skip()
    with foreign_database(postgres_url) as url:
        folder = open_folder / f"foreign-{request.param}"
        with pgbouncer_for(url, open_folder / "pgbouncer") if behind else _itself(url) as reached:
            environment = {**os.environ, "FOOTFALL_DATABASE_URL": reached, "FOOTFALL_SCHEDULE": "off"}
            with running_suite(folder, (0, 0, 0), environment) as connection:
                suite = Suite(connection, folder, reached)
                yield suite
                suite.close()


@pytest.fixture(scope="module")
def foreign_hands(foreign: Suite) -> Iterator[Hands]:
    with hands_on(foreign) as made:
        yield made


@given(data=st.data(), sites=st.lists(streams(), min_size=1, max_size=3))
@examples(0.06)
def test_every_answer_and_table_equals_the_recount(
    foreign_hands: Hands, data: st.DataObject, sites: list[Stream]
) -> None:
    assert_recount(foreign_hands, data, sites)


@given(data=st.data(), stream=streams())
@examples(0.04)
def test_two_orders_of_the_same_events_leave_the_same_tables(
    foreign_hands: Hands, data: st.DataObject, stream: Stream
) -> None:
    assert_order_free(foreign_hands, data, stream)


def test_every_report_and_list_equals_the_recount(foreign: Suite, foreign_hands: Hands) -> None:
    """With deltas, and compacted."""
    site = FootfallSite(foreign, "foreign", rollup_shard_count=2)
    events = made_up(41, visitors=25, events=400)
    for at in range(0, len(events), 100):
        site.send(batch_of(events[at : at + 100]))
    site.aggregate()
    assert_recounts(site, events)
    assert compact(site) > 0
    assert_recounts(site, events)
    code, output = footfall(foreign, "verify", "--site", site.slug)
    assert code == 0, output
    listed = site.query.ListVisitors(query_pb2.ListVisitorsRequest(site=site.slug), metadata=site.as_admin)
    assert len(listed.visitors) == len({event.visitor_id for event in events})


def test_each_transaction_has_the_settings_it_needs(foreign: Suite) -> None:
    """Also a statement outside a transaction, and a snapshot."""
    expected = {"timezone": "UTC", "datestyle": "ISO, DMY", "client_encoding": "UTF8", "jit": "off"}
    expected |= {"statement_timeout": "7s", "lock_timeout": "5s", "idle_in_transaction_session_timeout": "1min"}
    expected |= {"max_parallel_workers_per_gather": "0", "intervalstyle": "postgres"}
    expected |= {"transaction_isolation": "read committed"}
    asked = "SELECT " + ", ".join(f"current_setting('{name}')" for name in expected)
    db = Database(foreign.database_url, application="test", statement_timeout_ms=7_000)
    with db.connection() as connection:
        assert connection.execute(asked).fetchone() == tuple(expected.values())
        with connection.transaction():
            assert connection.execute(asked).fetchone() == tuple(expected.values())
        with connection.transaction(force_rollback=True), connection.transaction():
            found = connection.execute("SELECT now(), interval '1 day 2 hours', 'ü€'").fetchone()
    assert found is not None
    assert (found[0].utcoffset(), found[1], found[2]) == (timedelta(0), timedelta(days=1, hours=2), "ü€")
    with db.snapshot() as connection:
        seen = dict(zip(expected, connection.execute(asked).fetchone() or (), strict=True))
        assert seen == {**expected, "transaction_isolation": "repeatable read"}
    db.close()


def test_statements_are_prepared_only_without_a_pooler(foreign: Suite, request: pytest.FixtureRequest) -> None:
    """Found out by itself, and as told."""
    behind = "pgbouncer" in request.node.name
    for use, prepared in (("auto", not behind), ("on", True), ("off", False)):
        db = Database(foreign.database_url, application="test", prepared_statements=use)  # type: ignore[arg-type]
        with db.connection() as connection:
            assert isinstance(connection, Connection)
            assert (connection.prepare_threshold is not None) == prepared
        db.close()


def test_a_dead_network_is_noticed_within_six_seconds(foreign: Suite) -> None:
    """By TCP, in the pool and outside it; pgbouncer is reached by TCP, the server of the tests by a socket."""
    db = Database(foreign.database_url, application="test")
    with db.connection() as pooled, closing(db.connect()) as own:
        for connection in (pooled, own):
            with socket.socket(fileno=os.dup(connection.fileno())) as found:
                if found.family != socket.AF_UNIX:
                    assert found.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 6_000
    db.close()


@contextmanager
def _itself(url: str) -> Iterator[str]:
    yield url
