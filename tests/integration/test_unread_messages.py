"""What a call costs before its key is known and its message is checked: next to nothing."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import grpc
import psutil  # type: ignore[import-untyped]  # carries no type information
import pytest
from footfall.ingest.v1 import ingest_pb2

from tests.support.footfall_site import FootfallSite
from tests.support.processes import service_pids
from tests.support.refusals import Refusal, batch, event, invalid, refusal_of

if TYPE_CHECKING:
    from tests.support.suite import Suite

MEBIBYTE = 1024 * 1024
EMPTY_EVENTS = b"\x12\x00"
"""An empty event, two bytes on the wire and some hundred once it is parsed."""
EMPTY_TOPS = b"\x22\x00"
INGEST_BATCH = "/footfall.ingest.v1.IngestService/IngestBatch"
INGEST_STREAM = "/footfall.ingest.v1.IngestService/IngestStream"
GET_DASHBOARD = "/footfall.query.v1.QueryService/GetDashboard"
KEYLESS = Refusal(grpc.StatusCode.UNAUTHENTICATED, "KEY_REQUIRED")


@pytest.fixture
def site(suite: "Suite") -> FootfallSite:
    return FootfallSite(suite, "unread")


def growth(suite: "Suite", service: str, calls: Any) -> int:
    """By how many bytes the service's process has grown while `calls` ran."""
    process = psutil.Process(service_pids(suite.data_dir)[service])
    before = process.memory_info().rss
    calls()
    return int(process.memory_info().rss - before)


@pytest.mark.parametrize(
    ("service", "rpc", "message"),
    [("ingest", INGEST_BATCH, EMPTY_EVENTS), ("query", GET_DASHBOARD, EMPTY_TOPS)],
)
def test_a_large_message_without_a_key_is_refused_unread(
    suite: "Suite", service: str, rpc: str, message: bytes
) -> None:
    """Parsed, it would take over 500 MB."""
    with grpc.insecure_channel(getattr(suite, service)) as channel:
        call = channel.unary_unary(rpc, bytes, bytes)
        grown = growth(suite, service, lambda: [refusal_of(call, message * 8_000_000) for _ in range(3)])
        assert refusal_of(call, message * 8_000_000) == KEYLESS
    assert grown < 60 * MEBIBYTE


def test_events_are_counted_before_any_is_parsed(suite: "Suite", site: FootfallSite) -> None:
    """Parsed, they would take over 500 MB."""
    with grpc.insecure_channel(suite.ingest) as channel:
        call = channel.unary_unary(INGEST_BATCH, bytes, bytes)
        most = EMPTY_EVENTS * (2 * MEBIBYTE)
        grown = growth(suite, "ingest", lambda: refusal_of(call, most, metadata=site.as_sender))
        assert refusal_of(call, most, metadata=site.as_sender) == invalid("BATCH_TOO_MANY_EVENTS", "events")
        over = invalid("MESSAGE_TOO_LARGE", "events")
        assert refusal_of(call, EMPTY_EVENTS * 15_000_000, metadata=site.as_sender) == over
    assert grown < 150 * MEBIBYTE
    assert site.send(batch(event())).accepted == 1


@pytest.mark.parametrize("tag", [b"\x12", b"\x92\x00", b"\x92\x80\x80\x00"])
def test_a_tag_of_more_bytes_than_it_needs_hides_no_event(suite: "Suite", site: FootfallSite, tag: bytes) -> None:
    with grpc.insecure_channel(suite.ingest) as channel:
        call = channel.unary_unary(INGEST_BATCH, bytes, ingest_pb2.IngestBatchResponse.FromString)
        answer = call((tag + b"\x00") * 500, metadata=site.as_sender)
        assert answer.rejected == 500
        over = (tag + b"\x00") * 501
        assert refusal_of(call, over, metadata=site.as_sender) == invalid("BATCH_TOO_MANY_EVENTS", "events")


@pytest.mark.parametrize("service", ["query", "admin"])
def test_a_request_without_events_has_at_most_256_kibibytes(suite: "Suite", site: FootfallSite, service: str) -> None:
    rpc = {"query": GET_DASHBOARD, "admin": "/footfall.admin.v1.AdminService/GetSite"}[service]
    # A field that no message has; it is skipped.
    padding = b"\xfa\x7f\xfc\xff\x0f" + bytes(256 * 1024 - 4)
    with grpc.insecure_channel(getattr(suite, service)) as channel:
        call = channel.unary_unary(rpc, bytes, bytes)
        too_large = Refusal(grpc.StatusCode.INVALID_ARGUMENT, "MESSAGE_TOO_LARGE")
        assert refusal_of(call, padding, metadata=site.as_admin) == too_large
        smaller = b"\xfa\x7f\xf0\xff\x0f" + bytes(256 * 1024 - 16)
        assert refusal_of(call, smaller, metadata=site.as_admin).fields == ("site",)


def test_a_stream_without_a_key_ends_when_it_is_opened(suite: "Suite", site: FootfallSite) -> None:
    """Its client has sent nothing and never will."""
    ended: list[bool] = []

    def silent() -> Iterator[bytes]:
        while not ended:
            time.sleep(0.01)
        yield from ()

    with grpc.insecure_channel(suite.ingest) as channel:
        stream = channel.stream_stream(INGEST_STREAM, bytes, bytes)
        for metadata, reason in ((), "KEY_REQUIRED"), ((("x-write-key", "fw_x" * 8),), "KEY_UNKNOWN"):
            refused = refusal_of(next, stream(silent(), metadata=metadata))
            assert refused == Refusal(grpc.StatusCode.UNAUTHENTICATED, reason)
        ended.append(True)


def test_an_rpc_that_no_service_has_is_refused_with_a_reason(suite: "Suite") -> None:
    with grpc.insecure_channel(suite.query) as channel:
        call = channel.unary_unary("/footfall.query.v1.QueryService/GetNothing", bytes, bytes)
        assert refusal_of(call, b"") == Refusal(grpc.StatusCode.UNIMPLEMENTED, "RPC_UNKNOWN")
