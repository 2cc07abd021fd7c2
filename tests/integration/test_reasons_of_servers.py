"""A defect of the server, and a server that stops: the caller is told, and nothing is half-done."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc
import psycopg
import pytest
from footfall.admin.v1 import admin_pb2
from footfall.ingest.v1 import ingest_pb2, ingest_pb2_grpc

from tests.support.footfall_site import FootfallSite
from tests.support.processes import running_service
from tests.support.pushback import Pushback, pushback_of
from tests.support.refusals import Refusal, batch, event, queries, refusal_of

if TYPE_CHECKING:
    from tests.support.suite import Suite

INTERNAL = Refusal(grpc.StatusCode.INTERNAL, "INTERNAL")

Connection = psycopg.Connection[Any]


@pytest.fixture
def site(suite: "Suite") -> FootfallSite:
    return FootfallSite(suite, "faults")


@contextmanager
def renamed(database: Connection, table: str, column: str) -> Iterator[None]:
    """The schema is not what the services know: a column has another name until the block ends."""
    database.execute(f"ALTER TABLE {table} RENAME {column} TO {column}_away")
    try:
        yield
    finally:
        database.execute(f"ALTER TABLE {table} RENAME {column}_away TO {column}")


@pytest.fixture
def logged(suite: "Suite") -> Callable[[str], str]:
    """What a service has logged since the test began."""
    logs = {name: suite.data_dir / "log" / f"{name}.log" for name in ("ingest", "query", "admin")}
    sizes = {name: log.stat().st_size for name, log in logs.items()}
    return lambda name: logs[name].read_bytes()[sizes[name] :].decode()


def test_a_defect_of_ingest_stores_nothing_and_its_log_says_why(
    database: Connection, site: FootfallSite, logged: Callable[[str], str]
) -> None:
    """Dedupe keys and the pending batch are written before the events, and go with them: once mended, the same batch
    is accepted whole and aggregated once."""
    sent = batch(event(event_id="a"), event(event_id="b"))
    with renamed(database, "events", "title"):
        assert refusal_of(site.send, sent) == INTERNAL
        stream = iter([ingest_pb2.IngestStreamRequest(events=sent.events)])
        assert refusal_of(next, site.ingest.IngestStream(stream, metadata=site.as_sender)) == INTERNAL
    assert 'column "title" of relation "events" does not exist' in logged("ingest")
    assert site.events() == []
    assert site.send(sent).accepted == 2
    assert site.aggregate() == 2


def test_a_defect_of_query_is_told_by_every_query_and_its_log_says_why(
    database: Connection, site: FootfallSite, logged: Callable[[str], str]
) -> None:
    """Once mended, each is answered."""
    with renamed(database, "sites", "raw_from"):
        for call, request in queries(site):
            assert refusal_of(call, request, metadata=site.as_admin) == INTERNAL
    assert "raw_from does not exist" in logged("query")
    for call, request in queries(site):
        call(request, metadata=site.as_admin)


def test_a_defect_of_admin_leaves_no_half_of_a_change_and_its_log_says_why(
    database: Connection, site: FootfallSite, logged: Callable[[str], str]
) -> None:
    """CreateSite stores the site and then its key: without the key there is no site."""
    request = admin_pb2.CreateSiteRequest(slug=f"{site.slug}-half")
    with renamed(database, "api_keys", "name"):
        assert refusal_of(site.operator.CreateSite, request, metadata=site.as_admin) == INTERNAL
    assert 'column "name" of relation "api_keys" does not exist' in logged("admin")
    get = admin_pb2.GetSiteRequest(site=request.slug)
    assert refusal_of(site.operator.GetSite, get, metadata=site.as_admin).reason == "SITE_NOT_FOUND"
    assert site.operator.CreateSite(request, metadata=site.as_admin).site.slug == request.slug


def test_a_stream_is_told_that_its_server_stops_after_the_answers_to_what_it_took(
    suite: "Suite", site: FootfallSite
) -> None:
    """What was answered is stored; the next process takes what was not sent."""
    requests = [ingest_pb2.IngestStreamRequest(events=[event(title=f"{number}")]) for number in range(3)]
    with (
        running_service("ingest", suite.data_dir, {"FOOTFALL_DATABASE_URL": suite.database_url}) as service,
        grpc.insecure_channel(service.address) as channel,
    ):

        def until_stopped() -> Iterator[ingest_pb2.IngestStreamRequest]:
            yield from requests[:2]
            # The stream stays open: only the server ends it.
            service.process.wait(20)

        stub = ingest_pb2_grpc.IngestServiceStub(channel)
        answers: Any = stub.IngestStream(until_stopped(), metadata=site.as_sender)
        assert [next(answers).accepted for _ in range(2)] == [1, 1]
        service.process.terminate()
        told = Pushback(grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN", 1000)
        assert pushback_of(next, answers) == told
        assert service.process.wait(20) == 0
    assert sorted(stored.title for stored in site.events()) == ["0", "1"]
    last = site.ingest.IngestStream(iter(requests[2:]), metadata=site.as_sender)
    assert [answer.accepted for answer in last] == [1]
