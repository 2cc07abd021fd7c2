"""While the database cannot be reached, calls say when to try again; when it is back, work goes on."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import psycopg
import pytest
import sqlalchemy as sa
from footfall.admin.v1 import admin_pb2
from footfall.ingest.v1 import ingest_pb2
from footfall.query.v1 import query_pb2

from cli.suite import running_suite
from common.db import plain_url
from tests.support.footfall_site import FootfallSite, time_range
from tests.support.processes import eventually, service_pids
from tests.support.pushback import Pushback, Senders, pushback_of
from tests.support.suite import Suite, database_on
from tests.support.traffic import (
    WHOLE,
    Sending,
    assert_recounts,
    batch_of,
    made_up,
    overlapping,
    until_aggregated,
)

AWAY = Pushback(grpc.StatusCode.UNAVAILABLE, "DATABASE_UNAVAILABLE", 1000)


@dataclass
class Severable:
    """A suite that aggregates by itself, on a database that can be closed to it."""

    suite: Suite
    server_url: str

    @contextmanager
    def away(self) -> Iterator[None]:
        """Every connection to the database is ended, and none is let in until the block ends."""
        name = sa.make_url(self.suite.database_url).database
        with psycopg.connect(plain_url(self.server_url), autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            try:
                connection.execute(
                    "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s", (name,)
                )
                yield
            finally:
                connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


@pytest.fixture(scope="module")
def severable(postgres_url: str, open_folder: Path) -> Iterator[Severable]:
    with database_on(postgres_url) as url:
        folder = open_folder / "severable"
        environment = {**os.environ, "FOOTFALL_DATABASE_URL": url}
        with running_suite(folder, (0, 0, 0), environment) as connection:
            suite = Suite(connection, folder, url)
            yield Severable(suite, postgres_url)
            suite.close()


def test_every_service_says_when_to_try_again_and_goes_on_when_the_database_is_back(
    severable: Severable,
) -> None:
    """Keys that were looked up before are known, others are not; the refusal is the same. No process ends."""
    site = FootfallSite(severable.suite, "away")
    events = made_up(21, visitors=10, events=150)
    before, during, after = batch_of(events[:50]), batch_of(events[50:100]), batch_of(events[100:])
    pids = service_pids(severable.suite.data_dir)
    assert site.send(before).accepted == 50
    overview = query_pb2.GetOverviewRequest(site=site.slug, range=time_range(*WHOLE))
    site.query.GetOverview(overview, metadata=site.as_admin)
    with severable.away():
        assert pushback_of(site.ingest.IngestBatch, during, metadata=site.as_sender) == AWAY
        assert pushback_of(site.ingest.IngestBatch, during, metadata=(("x-write-key", "unseen"),)) == AWAY
        assert pushback_of(site.query.GetOverview, overview, metadata=site.as_admin) == AWAY
        aggregate = admin_pb2.AggregatePendingRequest(site=site.slug)
        assert pushback_of(site.operator.AggregatePending, aggregate, metadata=site.as_admin) == AWAY
        sites = admin_pb2.ListSitesRequest()
        assert pushback_of(site.operator.ListSites, sites, metadata=site.as_admin) == AWAY
        stream = ingest_pb2.IngestStreamRequest(events=during.events)
        answers = site.ingest.IngestStream(iter([stream]), metadata=site.as_sender)
        assert pushback_of(next, answers) == AWAY
    assert site.send(during).accepted == 50
    assert site.send(after).accepted == 50
    assert site.send(before).duplicate == 50
    until_aggregated(site)
    assert_recounts(site, events)
    assert service_pids(severable.suite.data_dir) == pids


def test_a_database_that_goes_away_under_load_loses_and_doubles_nothing(severable: Severable) -> None:
    """It goes several times, in the middle of transactions of ingest and of aggregation."""
    site = FootfallSite(severable.suite, "away-under-load", rollup_shard_count=3)
    events = made_up(22, visitors=60, events=2500)
    batches = overlapping(events, 22, times=4, size=20)
    pids = service_pids(severable.suite.data_dir)
    outages = 4
    for outage in range(outages):
        running, late = (
            Senders([Sending(site.ingest, site.write_key, batch) for batch in batches[part :: 2 * outages]])
            for part in (outage, outage + outages)
        )
        running.start()
        # It goes while these are being sent, and those cannot be through before it has gone.
        eventually(lambda running=running: running.acknowledged > 0)  # type: ignore[misc]  # mypy wants no default
        with severable.away():
            late.start()
            eventually(lambda late=late: late.refused.total() > 0)  # type: ignore[misc]  # as above
            assert late.acknowledged == 0
        running.finish()
        late.finish()
    until_aggregated(site)
    assert_recounts(site, events)
    assert service_pids(severable.suite.data_dir) == pids
