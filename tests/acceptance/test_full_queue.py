"""An ingest process that cannot store as fast as it is sent to holds a bounded number of events, some of every site."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import psycopg
import pytest
from footfall.ingest.v1 import ingest_pb2, ingest_pb2_grpc

from common.db import plain_url
from ingest_svc.event_ids import hashed_id, uuid_bytes
from tests.oracle.raw_events import RawEvent
from tests.support.footfall_site import FootfallSite
from tests.support.processes import eventually, running_service
from tests.support.pushback import Pushback, pushback_of
from tests.support.traffic import assert_recounts, batch_of, made_up

if TYPE_CHECKING:
    from tests.support.suite import Suite

QUEUE = 10
"""How many events a site may have waiting while no other has any: half of what the process holds."""
FULL = Pushback(grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", 500)

# Whether a commit of ingest waits for the lock that the test holds.
_HELD = """
SELECT FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'footfall ingest' AND wait_event_type = 'Lock'
"""


@pytest.fixture(scope="module")
def narrow(suite: "Suite") -> Iterator[Any]:
    """An ingest process with room for 10 events of one site, beside those of the suite."""
    environment = {
        "FOOTFALL_DATABASE_URL": suite.database_url,
        "FOOTFALL_INGEST_QUEUE_EVENTS": str(2 * QUEUE),
    }
    with (
        running_service("ingest", suite.data_dir, environment) as service,
        grpc.insecure_channel(service.address) as channel,
    ):
        yield ingest_pb2_grpc.IngestServiceStub(channel)


@contextmanager
def nothing_commits(suite: "Suite") -> Iterator[psycopg.Connection[Any]]:
    """Holds up every transaction of ingest until the block ends; yields a connection to look on."""
    url = plain_url(suite.database_url)
    with psycopg.connect(url) as holder, psycopg.connect(url, autocommit=True) as watcher:
        holder.execute("LOCK TABLE ingest_dedupes IN ACCESS EXCLUSIVE MODE")
        yield watcher
        holder.rollback()


@contextmanager
def held_key(suite: "Suite", site: FootfallSite, event_id: str) -> Iterator[psycopg.Connection[Any]]:
    """Holds the dedupe key of an event, as a frozen ingest process does; yields a connection to look on."""
    url = plain_url(suite.database_url)
    with psycopg.connect(url) as holder, psycopg.connect(url, autocommit=True) as watcher:
        expires = datetime.now(UTC) + timedelta(days=1)
        holder.execute(
            "INSERT INTO ingest_dedupes SELECT %s, site_id, %s FROM sites WHERE slug = %s",
            (expires, dedupe_key(event_id).hex(), site.slug),
        )
        yield watcher
        holder.rollback()


def dedupe_key(event_id: str) -> bytes:
    return uuid_bytes(event_id) or hashed_id(event_id)


def sender(narrow: Any, site: FootfallSite, pool: ThreadPoolExecutor) -> Any:
    def send(events: list[RawEvent]) -> Future[ingest_pb2.IngestBatchResponse]:
        return pool.submit(narrow.IngestBatch, batch_of(events), metadata=site.as_sender, timeout=60)

    return send


def test_a_full_queue_refuses_a_batch_whole_and_takes_what_fits(suite: "Suite", narrow: Any) -> None:
    site = FootfallSite(suite, "full")
    events = made_up(31, visitors=5, events=25)
    first, refused, fitting = events[:8], events[8:16], events[16:18]
    with ThreadPoolExecutor() as pool:
        send = sender(narrow, site, pool)
        with nothing_commits(suite) as watcher:
            waiting = send(first)
            eventually(lambda: watcher.execute(_HELD).fetchone() is not None)
            assert pushback_of(narrow.IngestBatch, batch_of(refused), metadata=site.as_sender) == FULL
            also_waiting = send(fitting)
            full = batch_of(events[:1])
            eventually(lambda: not is_taken(narrow, full, site))
            assert not waiting.done()
            assert not also_waiting.done()
        assert (waiting.result().accepted, also_waiting.result().accepted) == (8, 2)
    assert sorted(event.event_id for event in site.events()) == sorted(e.event_id for e in first + fitting)
    assert narrow.IngestBatch(batch_of(refused), metadata=site.as_sender).accepted == 8
    site.aggregate()
    assert_recounts(site, first + refused + fitting)


def is_taken(narrow: Any, request: ingest_pb2.IngestBatchRequest, site: FootfallSite) -> bool:
    """Whether the queue has room for the request; its answer is not waited for."""
    try:
        narrow.IngestBatch(request, metadata=site.as_sender, timeout=0.2)
    except grpc.RpcError as error:
        return error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED
    return True


def test_a_batch_larger_than_the_queue_is_taken_when_nothing_else_waits(suite: "Suite", narrow: Any) -> None:
    site = FootfallSite(suite, "large")
    events = made_up(32, visitors=5, events=2 * QUEUE + 1)
    assert narrow.IngestBatch(batch_of(events), metadata=site.as_sender).accepted == 2 * QUEUE + 1


def test_a_full_queue_slows_streams_down_and_refuses_them_nothing(suite: "Suite", narrow: Any) -> None:
    """Two streams of three queues each; while nothing is stored, nothing is answered and nothing refused."""
    site = FootfallSite(suite, "slow")
    events = made_up(33, visitors=5, events=6 * QUEUE)
    batches = [events[at : at + 6] for at in range(0, len(events), 6)]

    def stream(own: list[list[RawEvent]]) -> list[int]:
        requests = [ingest_pb2.IngestStreamRequest(events=batch_of(batch).events) for batch in own]
        answers = narrow.IngestStream(iter(requests), metadata=site.as_sender, timeout=60)
        return [answer.accepted for answer in answers]

    with ThreadPoolExecutor() as pool:
        with nothing_commits(suite) as watcher:
            streams = [pool.submit(stream, batches[part::2]) for part in range(2)]
            eventually(lambda: watcher.execute(_HELD).fetchone() is not None)
            assert pushback_of(narrow.IngestBatch, batch_of(events[:9]), metadata=site.as_sender) == FULL
            assert not any(one.done() for one in streams)
        assert [one.result() for one in streams] == [[6] * 5, [6] * 5]
    site.aggregate()
    assert_recounts(site, events)


def answer_or_again(
    waiting: "Future[ingest_pb2.IngestBatchResponse]", send: Callable[[], ingest_pb2.IngestBatchResponse]
) -> ingest_pb2.IngestBatchResponse:
    """The answer to a call, or to the next one if a slow test has let it be given up."""
    try:
        return waiting.result()
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return send()


def test_a_site_whose_flood_cannot_be_stored_refuses_and_delays_no_other(suite: "Suite", narrow: Any) -> None:
    """Another transaction holds a key of the loud site; its queue is full, and the quiet site hears nothing of it."""
    loud, quiet = FootfallSite(suite, "loud"), FootfallSite(suite, "quiet")
    events = made_up(34, visitors=5, events=60)
    batches = events[:5], events[5:10]
    with ThreadPoolExecutor() as pool:
        send = sender(narrow, loud, pool)
        with held_key(suite, loud, events[0].event_id) as watcher:
            held = send(batches[0])
            eventually(lambda: watcher.execute(_HELD).fetchone() is not None)
            beside = send(batches[1])
            eventually(lambda: not is_taken(narrow, batch_of(events[50:59]), loud))
            for event in events[40:50]:
                assert narrow.IngestBatch(batch_of([event]), metadata=quiet.as_sender).accepted == 1
        for waiting, batch in ((held, batches[0]), (beside, batches[1])):
            assert (
                answer_or_again(waiting, partial(narrow.IngestBatch, batch_of(batch), metadata=loud.as_sender)).accepted
                == 5
            )
    assert len(quiet.events()) == 10
