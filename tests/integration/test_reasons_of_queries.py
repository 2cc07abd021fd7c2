"""A zone that does not exist, and a report that takes the database too long."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import copy
from typing import TYPE_CHECKING, Any

import grpc
import psycopg
import pytest
from footfall.query.v1 import query_pb2, query_pb2_grpc

from common.db import plain_url
from tests.oracle.raw_events import DAY
from tests.support.footfall_site import FootfallSite, time_range
from tests.support.processes import running_service
from tests.support.refusals import Refusal, batch, event, invalid, queries, refusal_of

if TYPE_CHECKING:
    from tests.support.suite import Suite

TIMEOUT_MS = 500
"""Far less than the 5 s for which a statement waits for a lock, far more than the look-up of a key or a site."""
TOO_SLOW = Refusal(grpc.StatusCode.DEADLINE_EXCEEDED, "STATEMENT_TOO_SLOW")

# The backends of query processes that are at work or hold a transaction.
_AT_WORK = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'footfall query' AND state <> 'idle'
"""


@pytest.fixture(scope="module")
def site(suite: "Suite") -> FootfallSite:
    made = FootfallSite(suite, "reasons")
    made.send(batch(event(), event()))
    made.aggregate()
    return made


def by_zone(site: FootfallSite, zone: str) -> Iterator[tuple[Any, Any]]:
    """Every RPC that takes a time zone, and a request with this one."""
    asked: dict[str, Any] = {"site": site.slug, "range": time_range(0, DAY), "interval": query_pb2.INTERVAL_DAY}
    yield site.query.GetTimeseries, query_pb2.GetTimeseriesRequest(**asked, time_zone=zone)
    yield site.query.GetDashboard, query_pb2.GetDashboardRequest(**asked, time_zone=zone)


@pytest.mark.parametrize(
    "zone",
    [
        "Mars/Phobos",
        "europe/berlin",
        "Europe/Berlin ",
        " ",
        "+01:00",
        "CEST",
        "Europe",
        "../UTC",
        "/etc/localtime",
        "U\0",
    ],
)
def test_a_time_zone_that_does_not_exist_is_refused_and_not_taken_for_utc(site: FootfallSite, zone: str) -> None:
    for call, request in by_zone(site, zone):
        assert refusal_of(call, request, metadata=site.as_admin) == invalid("TIME_ZONE_UNKNOWN", "time_zone")


@pytest.mark.parametrize(("zone", "told"), [("", "UTC"), ("Europe/Berlin", "Europe/Berlin")])
def test_a_time_zone_that_exists_is_told_with_the_answer(site: FootfallSite, zone: str, told: str) -> None:
    for call, request in by_zone(site, zone):
        assert call(request, metadata=site.as_admin).time_zone == told


@pytest.fixture
def hasty(suite: "Suite", site: FootfallSite) -> Iterator[FootfallSite]:
    """The site, asked through a query process whose statements may take half a second."""
    environment = {
        "FOOTFALL_DATABASE_URL": suite.database_url,
        "FOOTFALL_STATEMENT_TIMEOUT_MS": str(TIMEOUT_MS),
    }
    with (
        running_service("query", suite.data_dir, environment) as service,
        grpc.insecure_channel(service.address) as channel,
    ):
        asked = copy(site)
        asked.query = query_pb2_grpc.QueryServiceStub(channel)
        yield asked


@contextmanager
def tables_locked(suite: "Suite") -> Iterator[None]:
    """No statement can read what reports read until the block ends; keys and sites it can."""
    with psycopg.connect(plain_url(suite.database_url)) as holder:
        holder.execute("LOCK TABLE events, sessions, visitors, rollup_shards, pending_batches IN ACCESS EXCLUSIVE MODE")
        yield
        holder.rollback()


def test_a_query_that_takes_the_database_too_long_is_refused_and_its_statement_ends(
    suite: "Suite", hasty: FootfallSite, database: psycopg.Connection[Any]
) -> None:
    """Every query; none goes on in the database after its caller has been told, and each is answered later."""
    asked = list(queries(hasty))
    with ThreadPoolExecutor(len(asked)) as pool:
        with tables_locked(suite):
            told = [pool.submit(refusal_of, call, request, metadata=hasty.as_admin) for call, request in asked]
            assert [one.result() for one in told] == [TOO_SLOW] * len(asked)
            assert database.execute(_AT_WORK).fetchall() == [(0,)]
        for call, request in asked:
            call(request, metadata=hasty.as_admin)
