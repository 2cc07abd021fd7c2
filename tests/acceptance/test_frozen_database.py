"""A database that is frozen: calls end, and when it goes on nothing is lost and nothing is doubled."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import sqlalchemy as sa
from footfall.admin.v1 import admin_pb2
from footfall.ingest.v1 import ingest_pb2
from footfall.query.v1 import query_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cli.suite import running_suite
from tests.support.footfall_site import FootfallSite, time_range
from tests.support.frozen import frozen
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
PROMISED_SECONDS = 10.0
"""A call with this deadline is answered by the server and not by its own deadline."""


@pytest.fixture(scope="module")
def freezable(postgres_url: str, open_folder: Path) -> Iterator[Suite]:
    """A suite that aggregates by itself, on a database of its own."""
    with database_on(postgres_url) as url:
        folder = open_folder / "freezable"
        environment = {**os.environ, "FOOTFALL_DATABASE_URL": url, "FOOTFALL_STATEMENT_TIMEOUT_MS": "4000"}
        with running_suite(folder, (0, 0, 0), environment) as connection:
            suite = Suite(connection, folder, url)
            yield suite
            suite.close()


def test_every_call_is_answered_in_time_and_the_process_goes_on(freezable: Suite, postgres_url: str) -> None:
    """Of ingest within 10 s: a call that is being stored, those that wait behind it, one whose key must be looked up,
    and a stream. What was refused is sent again and counted once."""
    site = FootfallSite(freezable, "frozen")
    events = made_up(31, visitors=10, events=150)
    before, during, after = batch_of(events[:50]), batch_of(events[50:100]), batch_of(events[100:])
    pids = service_pids(freezable.data_dir)
    assert site.send(before).accepted == 50
    overview = query_pb2.GetOverviewRequest(site=site.slug, range=time_range(*WHOLE))
    site.query.GetOverview(overview, metadata=site.as_admin)
    sites = admin_pb2.ListSitesRequest()
    site.operator.ListSites(sites, metadata=site.as_admin)
    stream = ingest_pb2.IngestStreamRequest(events=during.events)
    unseen = (("x-write-key", "unseen"),)

    def refused(*call: object, **options: object) -> Pushback:
        return pushback_of(*call, timeout=PROMISED_SECONDS, **options)  # type: ignore[arg-type]

    def refused_stream() -> Pushback:
        answers = site.ingest.IngestStream(iter([stream]), metadata=site.as_sender, timeout=PROMISED_SECONDS)
        return pushback_of(next, answers)

    with frozen(postgres_url), ThreadPoolExecutor(20) as pool:
        asked = [
            *(pool.submit(refused, site.ingest.IngestBatch, during, metadata=site.as_sender) for _ in range(12)),
            pool.submit(refused, site.ingest.IngestBatch, during, metadata=unseen),
            pool.submit(refused_stream),
            pool.submit(refused, site.query.GetOverview, overview, metadata=site.as_admin),
            pool.submit(refused, site.operator.ListSites, sites, metadata=site.as_admin),
        ]
        assert [answer.result() for answer in asked] == [AWAY] * len(asked)
        # The key is no longer remembered by now.
        assert refused(site.ingest.IngestBatch, during, metadata=site.as_sender) == AWAY
    eventually(lambda: _accepted(site, after))
    response = site.send(during)
    assert response.accepted + response.duplicate == 50
    assert site.send(before).duplicate == 50
    until_aggregated(site)
    assert_recounts(site, events)
    assert service_pids(freezable.data_dir) == pids


@pytest.mark.parametrize("whole", [True, False], ids=["the server", "only its backends"])
def test_under_load_nothing_is_lost_or_doubled(freezable: Suite, postgres_url: str, whole: bool) -> None:
    """It freezes in the middle of transactions of ingest and of aggregation. Where only the backends freeze, others may
    be had at once, but the frozen ones hold locks."""
    site = FootfallSite(freezable, f"frozen-{whole}".lower(), rollup_shard_count=3)
    events = made_up(32, visitors=60, events=1500)
    batches = overlapping(events, 32, times=4, size=20)
    pids = service_pids(freezable.data_dir)
    running, late = (Senders([Sending(site.ingest, site.write_key, batch) for batch in batches[n::2]]) for n in (0, 1))
    running.start()
    eventually(lambda: running.acknowledged > 0)
    backends_of = "" if whole else str(sa.make_url(freezable.database_url).database)
    with frozen(postgres_url, backends_of=backends_of):
        late.start()
        eventually(lambda: (running.refused + late.refused).total() > 0)
    running.finish()
    late.finish()
    assert {*running.refused, *late.refused} == {grpc.StatusCode.UNAVAILABLE}
    until_aggregated(site, 120)
    assert_recounts(site, events)
    assert service_pids(freezable.data_dir) == pids


@pytest.mark.parametrize("service", ["ingest", "query", "admin"])
def test_health_follows(freezable: Suite, postgres_url: str, service: str) -> None:
    name = f"footfall.{service}.v1.{service.capitalize()}Service"
    with grpc.insecure_channel(getattr(freezable, service)) as channel:
        health = health_pb2_grpc.HealthStub(channel)

        def is_state(state: int) -> bool:
            return bool(health.Check(health_pb2.HealthCheckRequest(service=name)).status == state)

        eventually(lambda: is_state(health_pb2.HealthCheckResponse.SERVING))
        with frozen(postgres_url):
            eventually(lambda: is_state(health_pb2.HealthCheckResponse.NOT_SERVING))
        eventually(lambda: is_state(health_pb2.HealthCheckResponse.SERVING))


def _accepted(site: FootfallSite, batch: ingest_pb2.IngestBatchRequest) -> bool:
    try:
        response = site.send(batch)
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.UNAVAILABLE:
            raise
        # The second in which nothing asks a database that was silent.
        return False
    return bool(response.accepted + response.duplicate)
