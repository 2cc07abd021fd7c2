"""How many calls may be under way, and for how long: over a limit the client is told, and nobody else is refused."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from footfall.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.footfall_site import FootfallSite
from tests.support.processes import Running, running_service
from tests.support.pushback import Pushback, pushback_of
from tests.support.refusals import batch, event

if TYPE_CHECKING:
    from tests.support.suite import Suite

TOO_MANY = Pushback(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_CALLS", 1000)
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture
def site(suite: "Suite") -> FootfallSite:
    return FootfallSite(suite, "calls")


@contextmanager
def ingest(suite: "Suite", **settings: str) -> Iterator[tuple[Running, grpc.Channel]]:
    environment = {"FOOTFALL_DATABASE_URL": suite.database_url, **settings}
    with (
        running_service("ingest", suite.data_dir, environment) as service,
        grpc.insecure_channel(service.address) as channel,
    ):
        yield service, channel


class OpenStream:
    """A stream of a client that sends so many requests at once and then nothing more, until it is closed."""

    def __init__(self, channel: grpc.Channel, site: FootfallSite, requests: int) -> None:
        self._closed = threading.Event()
        self.answers: Any = ingest_pb2_grpc.IngestServiceStub(channel).IngestStream(
            self._requests(requests), metadata=site.as_sender
        )

    def _requests(self, number: int) -> Iterator[ingest_pb2.IngestStreamRequest]:
        for _ in range(number):
            yield ingest_pb2.IngestStreamRequest(events=[event()])
        self._closed.wait(60)

    def close(self) -> None:
        self._closed.set()


def test_a_key_has_at_most_as_many_calls_as_are_free_and_another_key_still_gets_in(
    suite: "Suite", site: FootfallSite
) -> None:
    other = FootfallSite(suite, "calls")
    with ingest(suite, FOOTFALL_MAX_CALLS="4") as (_, channel):
        stub = ingest_pb2_grpc.IngestServiceStub(channel)
        held = [OpenStream(channel, site, 1) for _ in range(2)]
        assert [next(stream.answers).accepted for stream in held] == [1, 1]
        assert pushback_of(next, OpenStream(channel, site, 1).answers) == TOO_MANY
        assert pushback_of(stub.IngestBatch, batch(event()), metadata=site.as_sender) == TOO_MANY
        assert stub.IngestBatch(batch(event()), metadata=other.as_sender).accepted == 1
        held[0].close()
        assert list(held[0].answers) == []
        assert stub.IngestBatch(batch(event()), metadata=site.as_sender).accepted == 1
        held[1].close()
    assert len(site.events()) == 3


def test_health_is_told_while_watches_of_it_fill_their_places(suite: "Suite") -> None:
    request = health_pb2.HealthCheckRequest()
    with grpc.insecure_channel(suite.ingest) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watches: list[Any] = [stub.Watch(request) for _ in range(100)]
        for watch in watches:
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        assert pushback_of(next, stub.Watch(request)) == TOO_MANY
        assert stub.Check(request).status == health_pb2.HealthCheckResponse.SERVING
        for watch in watches:
            watch.cancel()


def test_a_call_that_sends_nothing_ends(suite: "Suite", site: FootfallSite) -> None:
    late = Pushback(UNAVAILABLE, "MESSAGE_LATE", 0)
    with ingest(suite, FOOTFALL_FIRST_MESSAGE_SECONDS="0.1") as (_, channel):
        assert pushback_of(next, OpenStream(channel, site, 0).answers) == late
        # A unary call whose message is not sent; on the wire it is such a stream.
        unary = channel.stream_unary("/footfall.ingest.v1.IngestService/IngestBatch", bytes, bytes)
        silent = OpenStream(channel, site, 0)
        assert pushback_of(unary, silent._requests(0), metadata=site.as_sender) == late
        silent.close()
    assert site.events() == []


def test_a_stream_that_goes_quiet_ends_after_the_answers(suite: "Suite", site: FootfallSite) -> None:
    with ingest(suite, FOOTFALL_STREAM_IDLE_SECONDS="0.1") as (_, channel):
        stream = OpenStream(channel, site, 2)
        assert [next(stream.answers).accepted for _ in range(2)] == [1, 1]
        assert pushback_of(next, stream.answers) == Pushback(UNAVAILABLE, "MESSAGE_LATE", 0)
    assert len(site.events()) == 2


def test_a_stream_ends_at_its_age_and_what_was_answered_is_stored(suite: "Suite", site: FootfallSite) -> None:
    with ingest(suite, FOOTFALL_STREAM_AGE_SECONDS="0.3") as (_, channel):
        stream = OpenStream(channel, site, 2)
        assert [next(stream.answers).accepted for _ in range(2)] == [1, 1]
        assert pushback_of(next, stream.answers) == Pushback(UNAVAILABLE, "STREAM_EXPIRED", 0)
    assert len(site.events()) == 2
