"""What a scrape of the running services shows."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import grpc
import psycopg
import pytest
from footfall.admin.v1 import admin_pb2
from footfall.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from footfall.query.v1 import query_pb2

from admin_svc.backlog_metrics import BacklogMetrics
from common.db import Database
from common.telemetry.busiest import MOST, WINDOW_SECONDS, Busiest
from common.telemetry.exposition import metrics_file
from tests.oracle.raw_events import DAY
from tests.support.footfall_site import FootfallSite, time_range
from tests.support.metrics import metrics_addresses, scraped, value_of
from tests.support.processes import eventually, running_service
from tests.support.refusals import batch, event, refusal_of

if TYPE_CHECKING:
    from tests.support.suite import Suite

INGEST_BATCH = "footfall.ingest.v1.IngestService/IngestBatch"
INGEST_STREAM = "footfall.ingest.v1.IngestService/IngestStream"
GET_OVERVIEW = "footfall.query.v1.QueryService/GetOverview"


class Scrapes:
    """The metrics of a service now, and what was added to a sample since they were read first."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._before = scraped(address)

    def added(self, sample: str, **labels: str) -> float:
        return value_of(scraped(self._address), sample, **labels) - value_of(self._before, sample, **labels)

    def now(self, sample: str, **labels: str) -> float:
        return value_of(scraped(self._address), sample, **labels)


@pytest.fixture
def ingest(suite: "Suite") -> Scrapes:
    return Scrapes(metrics_addresses(suite.data_dir)["ingest"])


@pytest.fixture
def query(suite: "Suite") -> Scrapes:
    return Scrapes(metrics_addresses(suite.data_dir)["query"])


@pytest.fixture
def admin(suite: "Suite") -> Scrapes:
    return Scrapes(metrics_addresses(suite.data_dir)["admin"])


@pytest.fixture
def site(suite: "Suite") -> FootfallSite:
    return FootfallSite(suite, "metrics")


def test_calls_are_counted_by_code_with_their_durations(ingest: Scrapes, query: Scrapes, site: FootfallSite) -> None:
    """Of both services, of streams too, and the histogram counts what the counter counts."""
    for _ in range(3):
        site.send(batch(event()))
    refusal_of(site.ingest.IngestBatch, batch(event()))
    requests = iter([ingest_pb2.IngestStreamRequest(events=[event()])] * 2)
    assert len(list(site.ingest.IngestStream(requests, metadata=site.as_sender))) == 2
    overview = query_pb2.GetOverviewRequest(site=site.slug, range=time_range(0, DAY))
    site.query.GetOverview(overview, metadata=site.as_admin)
    refusal_of(site.query.GetOverview, query_pb2.GetOverviewRequest(), metadata=site.as_admin)
    for scrapes, rpc, code, calls in (
        (ingest, INGEST_BATCH, "OK", 3),
        (ingest, INGEST_BATCH, "UNAUTHENTICATED", 1),
        (ingest, INGEST_STREAM, "OK", 1),
        (query, GET_OVERVIEW, "OK", 1),
        (query, GET_OVERVIEW, "INVALID_ARGUMENT", 1),
    ):
        assert scrapes.added("footfall_rpc_calls_total", rpc=rpc, code=code) == calls
    for scrapes, rpc, calls in ((ingest, INGEST_BATCH, 4), (query, GET_OVERVIEW, 2)):
        assert scrapes.added("footfall_rpc_seconds_count", rpc=rpc) == calls
        assert scrapes.added("footfall_rpc_seconds_bucket", rpc=rpc, le="+Inf") == calls
        assert 0 < scrapes.added("footfall_rpc_seconds_sum", rpc=rpc) < 60


def test_a_cancelled_stream_is_counted_as_one(ingest: Scrapes, site: FootfallSite) -> None:
    """Each once. To a server that reads the end of the requests before it hears of the cancellation it went well."""
    ended, streams = threading.Event(), 10

    def requests() -> Iterator[ingest_pb2.IngestStreamRequest]:
        yield ingest_pb2.IngestStreamRequest(events=[event()])
        ended.wait(60)

    for _ in range(streams):
        call: Any = site.ingest.IngestStream(requests(), metadata=site.as_sender)
        assert next(call).accepted == 1
        call.cancel()
    eventually(lambda: ingest.added("footfall_rpc_calls_total", rpc=INGEST_STREAM) == streams)
    assert ingest.added("footfall_rpc_calls_total", rpc=INGEST_STREAM, code="CANCELLED") > 0
    ended.set()


def test_events_are_counted_by_what_became_of_them(ingest: Scrapes, site: FootfallSite) -> None:
    """Dedupe hits are the duplicates; the size of a group is of valid events."""
    site.send(batch(event(event_id="a"), event(event_id="b"), event(event_id="a"), event(visitor_id="")))
    site.send(batch(event(event_id="b")))
    events = "footfall_ingest_events_total"
    outcomes = {outcome: ingest.added(events, outcome=outcome) for outcome in ("accepted", "duplicate", "rejected")}
    assert outcomes == {"accepted": 2, "duplicate": 2, "rejected": 1}
    assert ingest.added("footfall_ingest_group_events_sum") == 4
    assert ingest.added("footfall_ingest_group_events_count") == 2
    assert ingest.added("footfall_ingest_commit_seconds_count", outcome="stored") == 2


def test_events_that_wait_are_the_depth_of_the_queue(
    suite: "Suite", ingest: Scrapes, site: FootfallSite, database: psycopg.Connection[Any]
) -> None:
    """While their transaction is held up, and no longer; the limit stands beside it."""
    assert ingest.now("footfall_ingest_queue_events") == 0
    assert ingest.now("footfall_ingest_queue_limit_events") == 40_000
    with psycopg.connect(suite.database_url) as holder:
        holder.execute("LOCK TABLE pending_batches IN EXCLUSIVE MODE")
        calls = [site.ingest.IngestBatch.future(batch(event(), event()), metadata=site.as_sender) for _ in range(3)]
        eventually(lambda: ingest.now("footfall_ingest_queue_events") == 6)
        holder.rollback()
    assert sum(call.result().accepted for call in calls) == 6
    eventually(lambda: ingest.now("footfall_ingest_queue_events") == 0)


def test_what_is_pending_is_shown_with_its_age(suite: "Suite", site: FootfallSite, hands: Any) -> None:
    """Of all sites, and of those with most by name; after aggregation and compaction nothing is left of this site."""
    db = Database(suite.database_url, application="test")
    clock = [datetime.now(UTC)]
    backlog = BacklogMetrics(db, lambda: clock[0])
    assert list(backlog.collect()) == []
    site.send(batch(*(event() for _ in range(7))))
    clock[0] += timedelta(seconds=90)
    backlog.sample()
    shown = {family.name: family for family in backlog.collect()}
    assert value_of(shown, "footfall_busiest_site_pending_events", site=site.slug) == 7
    assert value_of(shown, "footfall_pending_events") >= 7
    assert value_of(shown, "footfall_oldest_pending_age_seconds") >= 89
    deltas = value_of(shown, "footfall_deltas")
    site.aggregate()
    backlog.sample()
    shown = {family.name: family for family in backlog.collect()}
    assert value_of(shown, "footfall_busiest_site_pending_events", site=site.slug) == 0
    assert value_of(shown, "footfall_deltas") > deltas
    clock[0] += timedelta(seconds=40)
    shown = {family.name: family for family in backlog.collect()}
    assert value_of(shown, "footfall_backlog_sample_age_seconds") == 40
    db.close()


def test_chunks_are_counted_by_job(suite: "Suite", site: FootfallSite, tmp_path: Any) -> None:
    """By an admin process with a schedule; a job that has had no chunk yet stands there with 0, so that the first
    failure is an increase."""
    site.send(batch(event(), event()))
    environment = {"FOOTFALL_DATABASE_URL": suite.database_url, "FOOTFALL_METRICS_LISTEN": "127.0.0.1:0"}
    with running_service("admin", suite.data_dir, environment) as running:
        scrapes = Scrapes(metrics_of(running.log))
        eventually(lambda: scrapes.now("footfall_chunk_rows_total", job_name="aggregate") >= 2)
        assert scrapes.now("footfall_chunk_seconds_count", job_name="aggregate") >= 1
        jobs = {
            sample.labels["job_name"] for sample in scraped(metrics_of(running.log))["footfall_chunk_failures"].samples
        }
        assert jobs == {"aggregate", "fold", "retry", "cleanup", "prune"}
        eventually(lambda: "footfall_pending_events" in scraped(metrics_of(running.log)))


def test_waits_for_a_connection_are_counted_by_pool(query: Scrapes, site: FootfallSite) -> None:
    before = query.now("footfall_pool_wait_seconds_count", pool="footfall query")
    site.query.GetOverview(
        query_pb2.GetOverviewRequest(site=site.slug, range=time_range(0, DAY)), metadata=site.as_admin
    )
    assert query.now("footfall_pool_wait_seconds_count", pool="footfall query") > before


def test_the_busiest_sites_are_few_and_of_the_last_minute() -> None:
    """However many sites there are; a site that fell silent is gone with the next minute."""
    now = [0.0]
    busiest = Busiest("footfall_test_busiest", "", lambda: now[0])
    for number in range(20_000):
        busiest.add(f"site-{number}", 1)
    for number in range(100):
        busiest.add(f"site-{number}", number)
    now[0] += WINDOW_SECONDS - 1
    assert busiest.top() == []
    now[0] += 41
    assert busiest.top()[:2] == [("", 100), ("site-99", 1)]
    assert len(busiest.top()) == MOST
    busiest.add("late", 30)
    now[0] += WINDOW_SECONDS
    assert busiest.top() == [("late", 0.5)]
    now[0] += 2 * WINDOW_SECONDS
    assert busiest.top() == []


def test_workers_are_joined_at_one_address(suite: "Suite", site: FootfallSite) -> None:
    """Each series with the number of its worker: their sums are those of the service, and a dead one is told."""
    environment = {
        "FOOTFALL_DATABASE_URL": suite.database_url,
        "FOOTFALL_WORKERS": "2",
        "FOOTFALL_METRICS_LISTEN": "127.0.0.1:0",
    }
    with running_service("ingest", suite.data_dir, environment) as running:
        address = metrics_of(running.log)
        for number in range(12):
            with grpc.insecure_channel(running.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
                stub = ingest_pb2_grpc.IngestServiceStub(channel)
                stub.IngestBatch(batch(event(event_id=str(number))), metadata=site.as_sender, wait_for_ready=True)
        families = scraped(address)
        assert value_of(families, "footfall_rpc_calls_total", rpc=INGEST_BATCH, code="OK") == 12
        assert value_of(families, "footfall_ingest_events_total", outcome="accepted") == 12
        assert [value_of(families, "footfall_worker_up", worker=str(number)) for number in range(3)] == [1, 1, 0]
        workers = {sample.labels["worker"] for sample in families["process_resident_memory_bytes"].samples}
        assert workers == {"0", "1"}


def metrics_of(log: Any) -> str:
    """Where the metrics of a process with this log are: the file stands beside its address file."""
    return metrics_file(log).read_text()


def test_a_bare_service_serves_no_metrics(suite: "Suite") -> None:
    with running_service("query", suite.data_dir, {"FOOTFALL_DATABASE_URL": suite.database_url}) as running:
        assert not metrics_file(running.log).exists()


@pytest.mark.parametrize(("address", "told"), [("127.0.0.1", "is no address"), ("127.0.0.1:99999", "is no address")])
def test_an_address_for_metrics_that_is_none_is_one_line(
    suite: "Suite", address: str, told: str, tmp_path: Any
) -> None:
    environment = {"FOOTFALL_DATABASE_URL": suite.database_url, "FOOTFALL_METRICS_LISTEN": address}
    with (
        pytest.raises(AssertionError, match=f"FOOTFALL_METRICS_LISTEN: {address} {told}"),
        running_service("query", tmp_path, environment),
    ):
        pass


def test_a_port_for_metrics_that_is_taken_is_one_line(suite: "Suite", tmp_path: Any) -> None:
    taken = metrics_addresses(suite.data_dir)["query"]
    environment = {"FOOTFALL_DATABASE_URL": suite.database_url, "FOOTFALL_METRICS_LISTEN": taken}
    with (
        pytest.raises(AssertionError, match=f"FOOTFALL_METRICS_LISTEN: {taken} cannot be listened on"),
        running_service("query", tmp_path, environment),
    ):
        pass


def test_the_last_use_is_of_admin_too(admin: Scrapes, site: FootfallSite) -> None:
    """Calls of admin are counted as those of the others."""
    site.operator.ListApiKeys(admin_pb2.ListApiKeysRequest(site=site.slug), metadata=site.as_admin)
    rpc = "footfall.admin.v1.AdminService/ListApiKeys"
    assert admin.added("footfall_rpc_calls_total", rpc=rpc, code="OK") == 1
