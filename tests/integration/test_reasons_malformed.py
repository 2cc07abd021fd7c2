"""Bytes that are no message of an RPC are refused before anything is done with them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from footfall.admin.v1 import admin_pb2
from footfall.ingest.v1 import ingest_pb2
from footfall.query.v1 import query_pb2

from tests.support.footfall_site import FootfallSite
from tests.support.refusals import Refusal, batch, event, refusal_of

if TYPE_CHECKING:
    from tests.support.suite import Suite

MALFORMED = Refusal(grpc.StatusCode.INVALID_ARGUMENT, "MESSAGE_MALFORMED")
NO_TAG = b"\xff"
"""Of a field's tag only the first byte: no message of any type."""
TEXT, NO_TEXT = b"xyz", b"\xff\xfe\xfd"
"""Of one length; the second is no UTF-8."""
INGEST_BATCH = "/footfall.ingest.v1.IngestService/IngestBatch"
INGEST_STREAM = "/footfall.ingest.v1.IngestService/IngestStream"
CREATE_SITE = "/footfall.admin.v1.AdminService/CreateSite"

RPCS = {
    f"/{service.full_name}/{method.name}": method.client_streaming
    for service in (
        ingest_pb2.DESCRIPTOR.services_by_name["IngestService"],
        query_pb2.DESCRIPTOR.services_by_name["QueryService"],
        admin_pb2.DESCRIPTOR.services_by_name["AdminService"],
    )
    for method in service.methods
}
"""Every RPC, and whether it is a stream."""


@pytest.fixture
def site(suite: "Suite") -> FootfallSite:
    return FootfallSite(suite, "malformed")


@contextmanager
def sender(suite: "Suite", rpc: str) -> Iterator[Callable[..., Any]]:
    """Sends bytes as they are to an RPC; a stream gets them as its only request."""
    address = {"ingest": suite.ingest, "query": suite.query, "admin": suite.admin}[rpc.split(".")[1]]
    with grpc.insecure_channel(address) as channel:
        if RPCS[rpc]:
            stream = channel.stream_stream(rpc, bytes, bytes)
            yield lambda sent, metadata: list(stream(iter([sent]), metadata=metadata))
        else:
            yield channel.unary_unary(rpc, bytes, bytes)


@pytest.mark.parametrize("rpc", RPCS)
def test_bytes_that_are_no_message_are_refused_by_every_rpc(suite: "Suite", site: FootfallSite, rpc: str) -> None:
    with sender(suite, rpc) as send:
        assert refusal_of(send, NO_TAG, metadata=(*site.as_sender, *site.as_admin)) == MALFORMED


@pytest.mark.parametrize("field", ["visitor_id", "name", "path"])
def test_a_text_that_is_no_utf_8_refuses_its_whole_batch(suite: "Suite", site: FootfallSite, field: str) -> None:
    good = batch(event(), event(**{field: TEXT.decode()}), event())
    with sender(suite, INGEST_BATCH) as send:
        bad = good.SerializeToString().replace(TEXT, NO_TEXT)
        assert refusal_of(send, bad, metadata=site.as_sender) == MALFORMED
    assert site.events() == []
    assert site.send(good).accepted == 3


def test_a_batch_that_was_cut_off_stores_nothing(suite: "Suite", site: FootfallSite) -> None:
    whole = batch(event(), event(), event()).SerializeToString()
    with sender(suite, INGEST_BATCH) as send:
        assert refusal_of(send, whole[:-1], metadata=site.as_sender) == MALFORMED
    assert site.events() == []


def test_a_name_that_is_no_utf_8_makes_no_site(suite: "Suite", site: FootfallSite) -> None:
    slug = f"{site.slug}-new"
    good = admin_pb2.CreateSiteRequest(slug=slug, name=TEXT.decode())
    with sender(suite, CREATE_SITE) as send:
        bad = good.SerializeToString().replace(TEXT, NO_TEXT)
        assert refusal_of(send, bad, metadata=site.as_admin) == MALFORMED
    get = admin_pb2.GetSiteRequest(site=slug)
    assert refusal_of(site.operator.GetSite, get, metadata=site.as_admin).reason == "SITE_NOT_FOUND"


def test_a_stream_keeps_what_came_before_a_malformed_request_and_nothing_after(
    suite: "Suite", site: FootfallSite
) -> None:
    good = [
        ingest_pb2.IngestStreamRequest(events=[event(title=f"{number}")] * (number + 1)).SerializeToString()
        for number in range(3)
    ]
    with grpc.insecure_channel(suite.ingest) as channel:
        stream = channel.stream_stream(INGEST_STREAM, bytes, ingest_pb2.IngestStreamResponse.FromString)
        answers: Any = stream(iter([good[0], good[1], NO_TAG, good[2]]), metadata=site.as_sender)
        assert [next(answers).accepted for _ in range(2)] == [1, 2]
        assert refusal_of(next, answers) == MALFORMED
    assert sorted(stored.title for stored in site.events()) == ["0", "1", "1"]
