"""One site's calls do not keep others waiting, and a call that has ended runs nothing in Postgres.

A lock on `visitors` holds the loud site's lists; an overview reads no visitors.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import TYPE_CHECKING, Any

import grpc
import psycopg
import pytest
from footfall.admin.v1 import admin_pb2, admin_pb2_grpc
from footfall.query.v1 import query_pb2, query_pb2_grpc

from common.db import plain_url
from tests.oracle.raw_events import DAY
from tests.support.footfall_site import FootfallSite, time_range
from tests.support.processes import eventually, running_service
from tests.support.pushback import Pushback, pushback_of
from tests.support.refusals import batch, event

if TYPE_CHECKING:
    from tests.support.suite import Suite

SITE_AT_ONCE, KEY_AT_ONCE, SITE_WAITING = 2, 4, 32
TOLD = Pushback(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS", 1_000)

_WAITING_FOR_LOCKS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = %s AND wait_event_type = 'Lock'
"""
_ASLEEP = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = %s AND wait_event = 'PgSleep'
"""
_AT_WORK = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = %s AND state <> 'idle'
"""

Connection = psycopg.Connection[Any]


@pytest.fixture(scope="module")
def sites(suite: "Suite") -> Iterator[list[FootfallSite]]:
    """Four sites, asked through processes of their own, whose statements wait long for locks."""
    environment = {
        "FOOTFALL_DATABASE_URL": suite.database_url,
        "FOOTFALL_POOL_SIZE": "8",
        "FOOTFALL_SCHEDULE": "off",
        "FOOTFALL_STATEMENT_TIMEOUT_MS": "600000",
    }
    with (
        running_service("query", suite.data_dir, environment) as query,
        running_service("admin", suite.data_dir, environment) as admin,
        grpc.insecure_channel(query.address) as query_channel,
        grpc.insecure_channel(admin.address) as admin_channel,
    ):
        made = []
        for _ in range(4):
            site = FootfallSite(suite, "shares")
            site.send(batch(event()))
            site.aggregate()
            asked = copy(site)
            asked.query = query_pb2_grpc.QueryServiceStub(query_channel)
            asked.operator = admin_pb2_grpc.AdminServiceStub(admin_channel)
            made.append(asked)
        yield made


@contextmanager
def locked(suite: "Suite", table: str) -> Iterator[Connection]:
    """No other transaction can read the table until the block ends."""
    with psycopg.connect(plain_url(suite.database_url)) as holder:
        holder.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        yield holder
        holder.rollback()


@contextmanager
def sleepy_lists(database: Connection) -> Iterator[None]:
    """Who reads `visitors` sleeps, where no lock timeout ends him. Nobody may read at the end of the block."""
    database.execute("ALTER TABLE visitors RENAME TO visitors_away")
    database.execute("CREATE VIEW visitors AS SELECT v.* FROM visitors_away v, (SELECT pg_sleep(50)) AS asleep")
    try:
        yield
    finally:
        database.execute("DROP VIEW visitors")
        database.execute("ALTER TABLE visitors_away RENAME TO visitors")


@contextmanager
def sleepy_writes(database: Connection, table: str) -> Iterator[None]:
    """The same for those who insert or update rows of the table."""
    database.execute(
        "CREATE FUNCTION sleep_long() RETURNS trigger LANGUAGE plpgsql "
        "AS 'BEGIN PERFORM pg_sleep(50); RETURN NULL; END'"
    )
    database.execute(
        f"CREATE TRIGGER sleepy BEFORE INSERT OR UPDATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION sleep_long()"
    )
    try:
        yield
    finally:
        database.execute(f"DROP TRIGGER sleepy ON {table}")
        database.execute("DROP FUNCTION sleep_long")


def list_visitors(site: FootfallSite, key: Any, **options: Any) -> Any:
    """The call under way."""
    request = query_pb2.ListVisitorsRequest(site=site.slug)
    return site.query.ListVisitors.future(request, metadata=key, **options)


def overview(site: FootfallSite, key: Any) -> Any:
    request = query_pb2.GetOverviewRequest(site=site.slug, range=time_range(0, DAY))
    return site.query.GetOverview(request, metadata=key, timeout=20)


def read_key(site: FootfallSite, of: str) -> Any:
    """The metadata of a new read key of a site, or of all sites ("")."""
    request = admin_pb2.CreateApiKeyRequest(kind=admin_pb2.API_KEY_KIND_READ, site=of)
    return (("authorization", f"Bearer {site.operator.CreateApiKey(request, metadata=site.as_admin).key}"),)


def counted(database: Connection, statement: str, number: int, application: str = "footfall query") -> None:
    """Waits until so many backends of the application are found."""
    eventually(lambda: database.execute(statement, (application,)).fetchone() == (number,))


def first_refused(calls: list[Any]) -> Any:
    """Waits for it. Statements that have waited 5 s for a lock end too; calls that waited take their places."""
    full = grpc.StatusCode.RESOURCE_EXHAUSTED
    return eventually(lambda: [call for call in calls if call.done() and call.code() is full])[0]


def cancel_all(database: Connection, calls: list[Any]) -> None:
    """Cancels, and waits until nothing runs for them."""
    for call in calls:
        call.cancel()
    counted(database, _AT_WORK, 0)


def test_a_site_holds_its_share_and_others_are_answered_meanwhile(
    suite: "Suite", sites: list[FootfallSite], database: Connection
) -> None:
    """By their own keys and by a key of all sites; over the bound of its queue the loud site is told so."""
    loud, quiet = sites[:2]
    own, everywhere = read_key(loud, loud.slug), read_key(loud, "")
    with locked(suite, "visitors"):
        calls = [list_visitors(loud, key) for key in (own, everywhere) for _ in range(SITE_AT_ONCE + SITE_WAITING)]
        counted(database, _WAITING_FOR_LOCKS, SITE_AT_ONCE)
        assert pushback_of(first_refused(calls).result) == TOLD
        overview(quiet, read_key(quiet, quiet.slug))
        overview(quiet, everywhere)
        counted(database, _WAITING_FOR_LOCKS, SITE_AT_ONCE)
        cancel_all(database, calls)
    assert list_visitors(loud, own).result().visitors
    overview(loud, own)


def test_a_key_of_all_sites_holds_its_share_and_other_keys_are_answered_meanwhile(
    suite: "Suite", sites: list[FootfallSite], database: Connection
) -> None:
    """It may ask about many sites at once; sites that it asked about are answered for other keys."""
    key = read_key(sites[0], "")
    with locked(suite, "visitors"):
        calls = [list_visitors(site, key) for site in sites for _ in range(4)]
        counted(database, _WAITING_FOR_LOCKS, KEY_AT_ONCE)
        for site in sites:
            overview(site, site.as_admin)
        counted(database, _WAITING_FOR_LOCKS, KEY_AT_ONCE)
        cancel_all(database, calls)
    assert all(list_visitors(site, key).result().visitors for site in sites)


def test_a_call_that_is_cancelled_or_late_ends_its_statement_and_leaves_the_queue(
    sites: list[FootfallSite], database: Connection
) -> None:
    """Nothing but a cancel ends the statements; afterwards every place is free."""
    [site, *_] = sites
    for end in ("cancel", "deadline"):
        with sleepy_lists(database):
            options = {"timeout": 1.0} if end == "deadline" else {}
            calls = [list_visitors(site, site.as_admin, **options) for _ in range(12)]
            counted(database, _ASLEEP, SITE_AT_ONCE)
            if end == "cancel":
                for call in calls:
                    call.cancel()
            else:
                assert {call.code() for call in calls} == {grpc.StatusCode.DEADLINE_EXCEEDED}
            counted(database, _AT_WORK, 0)
            again = [list_visitors(site, site.as_admin) for _ in range(SITE_AT_ONCE)]
            counted(database, _ASLEEP, SITE_AT_ONCE)
            cancel_all(database, again)
        assert list_visitors(site, site.as_admin).result().visitors


def test_a_statement_that_an_operator_cancels_ends_its_call_alone(
    suite: "Suite", sites: list[FootfallSite], database: Connection
) -> None:
    [site, *_] = sites
    with locked(suite, "visitors"):
        first, second = (list_visitors(site, site.as_admin) for _ in range(2))
        counted(database, _WAITING_FOR_LOCKS, 2)
        database.execute(
            "SELECT pg_cancel_backend(min(pid)) FROM pg_stat_activity WHERE datname = current_database() "
            "AND application_name = 'footfall query' AND wait_event_type = 'Lock'"
        )
        eventually(lambda: first.done() or second.done())
    ended = [call.code() for call in (first, second)]
    assert sorted(ended, key=str) == [grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.OK]


def test_a_cancelled_chunk_is_rolled_back_and_can_be_done_again(
    sites: list[FootfallSite], database: Connection
) -> None:
    """It holds its claims and locks when it is cancelled; then none of them is left."""
    [site, *_] = sites
    site.send(batch(event(), event()))
    request = admin_pb2.AggregatePendingRequest(site=site.slug)
    with sleepy_writes(database, "sessions"):
        call: Any = site.operator.AggregatePending.future(request, metadata=site.as_admin)
        counted(database, _ASLEEP, 1, "footfall admin")
        call.cancel()
        counted(database, _AT_WORK, 0, "footfall admin")
    assert database.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone() == (0,)
    answer = site.operator.AggregatePending(request, metadata=site.as_admin)
    assert (answer.aggregated, answer.failed, answer.remaining) == (2, 0, 0)


def test_a_cancelled_change_of_a_site_is_rolled_back(sites: list[FootfallSite], database: Connection) -> None:
    [site, *_] = sites
    request = admin_pb2.UpdateSiteRequest(site=admin_pb2.Site(slug=site.slug, name="late"))
    request.update_mask.paths.append("name")
    with sleepy_writes(database, "sites"):
        call: Any = site.operator.UpdateSite.future(request, metadata=site.as_admin)
        counted(database, _ASLEEP, 1, "footfall admin")
        call.cancel()
        counted(database, _AT_WORK, 0, "footfall admin")
    assert site.operator.GetSite(admin_pb2.GetSiteRequest(site=site.slug), metadata=site.as_admin).site.name != "late"
