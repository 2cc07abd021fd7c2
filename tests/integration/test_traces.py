"""Traces reach a collector: from the caller's `traceparent` through the call to its SQL statements."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from footfall.ingest.v1 import ingest_pb2_grpc
from footfall.query.v1 import query_pb2, query_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.oracle.raw_events import DAY
from tests.support.footfall_site import FootfallSite, time_range
from tests.support.processes import eventually, running_service
from tests.support.refusals import batch, event

if TYPE_CHECKING:
    from tests.support.suite import Suite


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps every span that it is sent over OTLP."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spans: list[tuple[str, Span]] = []
        self.address = ""

    def Export(self, request: Any, _context: Any) -> Any:  # noqa: N802  # named by the proto
        with self._lock:
            for sent in request.resource_spans:
                (service,) = (a.value.string_value for a in sent.resource.attributes if a.key == "service.name")
                self._spans += [(service, span) for scope in sent.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def of(self, trace_id: str) -> list[tuple[str, Span]]:
        with self._lock:
            return [(service, span) for service, span in self._spans if span.trace_id.hex() == trace_id]

    def spans(self) -> list[Span]:
        with self._lock:
            return [span for _, span in self._spans]


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(made, server)  # type: ignore[no-untyped-call]
    made.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield made
    server.stop(0)


@pytest.fixture
def site(suite: "Suite") -> FootfallSite:
    return FootfallSite(suite, "traces")


def traced(suite: "Suite", collector: Collector, **settings: str) -> dict[str, str]:
    return {
        "FOOTFALL_DATABASE_URL": suite.database_url,
        "FOOTFALL_TRACES": "on",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{collector.address}",
        "OTEL_EXPORTER_OTLP_INSECURE": "true",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        **settings,
    }


def traceparent(trace_id: str) -> tuple[tuple[str, str], ...]:
    return (("traceparent", f"00-{trace_id}-00f067aa0ba902b7-01"),)


def attributes_of(span: Span) -> dict[str, Any]:
    return {a.key: getattr(a.value, str(a.value.WhichOneof("value"))) for a in span.attributes}


def below(spans: list[tuple[str, Span]], parent: Span) -> list[Span]:
    return [span for _, span in spans if span.parent_span_id == parent.span_id]


def test_a_report_is_traced_from_its_caller_to_its_statements(
    suite: "Suite", collector: Collector, site: FootfallSite
) -> None:
    """The call is below the caller's span, its statements are below the call, and the request id leads there."""
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    with running_service("query", suite.data_dir, traced(suite, collector)) as running:
        with grpc.insecure_channel(running.address) as channel:
            stub = query_pb2_grpc.QueryServiceStub(channel)
            request = query_pb2.GetOverviewRequest(site=site.slug, range=time_range(0, DAY))
            stub.GetOverview(request, metadata=(*site.as_admin, *traceparent(trace_id), ("x-request-id", "traced-1")))
        spans = eventually(lambda: collector.of(trace_id))
    ((service, call),) = [(s, span) for s, span in collector.of(trace_id) if span.kind == Span.SPAN_KIND_SERVER]
    assert service == "footfall-query"
    assert call.name == "footfall.query.v1.QueryService/GetOverview"
    assert call.parent_span_id.hex() == "00f067aa0ba902b7"
    found = attributes_of(call)
    assert (found["rpc.grpc.status_code"], found["footfall.request_id"]) == ("OK", "traced-1")
    statements = below(collector.of(trace_id), call)
    assert any("FROM sites s WHERE s.slug" in attributes_of(span)["db.statement"] for span in statements)
    assert len(statements) > 2
    assert len(spans) > 0


def test_a_batch_is_traced_into_the_transaction_that_stores_it(
    suite: "Suite", collector: Collector, site: FootfallSite
) -> None:
    """Calls that share a transaction: it is below the first and linked to the others."""
    ids = [f"{number:032x}" for number in range(1, 9)]
    with running_service("ingest", suite.data_dir, traced(suite, collector)) as running:
        with grpc.insecure_channel(running.address) as channel:
            stub = ingest_pb2_grpc.IngestServiceStub(channel)
            calls = [
                stub.IngestBatch.future(batch(event()), metadata=(*site.as_sender, *traceparent(one))) for one in ids
            ]
            assert all(call.result().accepted == 1 for call in calls)
        eventually(lambda: all(collector.of(one) for one in ids))
    stored = [span for one in ids for _, span in collector.of(one) if span.name == "store events"]
    assert stored
    for span in stored:
        statements = below(collector.of(span.trace_id.hex()), span)
        assert any("INSERT INTO ingest_dedupes" in attributes_of(one)["db.statement"] for one in statements)
    linked = {link.trace_id.hex() for span in stored for link in span.links} | {span.trace_id.hex() for span in stored}
    assert linked == set(ids)


def test_what_belongs_to_no_call_is_not_traced(suite: "Suite", collector: Collector) -> None:
    """Looking for work and testing connections, many times a second; chunks are."""
    site = FootfallSite(suite, "traces-chunks")
    site.send(batch(event()))
    with running_service("admin", suite.data_dir, traced(suite, collector)):
        chunk = eventually(lambda: [span for span in collector.spans() if span.name == "chunk of aggregate"])[0]
    spans = collector.spans()
    assert below(collector.of(chunk.trace_id.hex()), chunk)
    assert all(span.name.startswith("chunk of ") for span in spans if not span.parent_span_id)


def test_a_caller_that_samples_nothing_gets_no_trace(suite: "Suite", collector: Collector, site: FootfallSite) -> None:
    dropped, kept = f"{17:032x}", f"{18:032x}"
    with running_service("query", suite.data_dir, traced(suite, collector)) as running:
        with grpc.insecure_channel(running.address) as channel:
            stub = query_pb2_grpc.QueryServiceStub(channel)
            request = query_pb2.GetOverviewRequest(site=site.slug, range=time_range(0, DAY))
            unsampled = (("traceparent", f"00-{dropped}-00f067aa0ba902b7-00"),)
            stub.GetOverview(request, metadata=(*site.as_admin, *unsampled))
            stub.GetOverview(request, metadata=(*site.as_admin, *traceparent(kept)))
        eventually(lambda: collector.of(kept))
    assert collector.of(dropped) == []


@pytest.mark.parametrize("service", ["ingest_svc", "query_svc", "admin_svc"])
def test_without_the_setting_nothing_of_it_is_imported(service: str) -> None:
    """So that it costs nothing, and works where the extra is not installed."""
    code = f"import sys, {service}.__main__; print([name for name in sys.modules if 'opentelemetry' in name])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout == "[]\n"


def test_with_the_setting_and_without_the_extra_it_is_one_line(suite: "Suite") -> None:
    """It says what to install."""
    code = (
        "import sys; sys.modules['opentelemetry'] = None; sys.argv = ['query_svc']\n"
        "import runpy; runpy.run_module('query_svc', run_name='__main__')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={"FOOTFALL_DATABASE_URL": suite.database_url, "FOOTFALL_TRACES": "on"},
        capture_output=True,
        check=False,
        text=True,
    )
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    assert "pip install 'footfall[otel]'" in ended.stderr
