"""Traces by OpenTelemetry, sent by OTLP over gRPC. Needs the extra `otel`.

The library reads its own variables OTEL_…: endpoint, headers, sampler.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

from opentelemetry import context, propagate, trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import Link, SpanContext, SpanKind, StatusCode

from common.telemetry.tracing import Metadata

_FAULTS = frozenset({"INTERNAL", "UNAVAILABLE", "UNKNOWN", "DATA_LOSS", "DEADLINE_EXCEEDED", "UNIMPLEMENTED"})
"""Codes that make a server's span an error, by OpenTelemetry's conventions for gRPC."""


class Tracer:
    """Spans of calls, of groups of calls, of chunks, and of the SQL statements within them."""

    def __init__(self, service: str) -> None:
        resource = Resource({SERVICE_NAME: service}).merge(OTELResourceDetector().detect())
        sender = BatchSpanProcessor(OTLPSpanExporter())
        self._provider = TracerProvider(resource=resource)
        # Statements outside of any span are looking for work or testing a connection, many a second: none is traced.
        statements = TracerProvider(ParentBased(ALWAYS_OFF), resource)
        for provider in (self._provider, statements):
            provider.add_span_processor(sender)
        # No comments in the statements: each would be another text to Postgres, so none would be prepared.
        PsycopgInstrumentor().instrument(tracer_provider=statements, enable_commenter=False)
        self._tracer = self._provider.get_tracer("footfall")

    def close(self) -> None:
        """Sends the spans that wait, for 2 s at most."""
        self._provider.force_flush(2_000)

    def call_began(self, rpc: str, metadata: Metadata) -> trace.Span:
        """See tracing.call_began."""
        carrier = {key: value for key, value in metadata if isinstance(value, str)}
        service, _, method = rpc.rpartition("/")
        span = self._tracer.start_span(
            rpc,
            propagate.extract(carrier),
            SpanKind.SERVER,
            {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method},
        )
        # It is never detached: the task answers this call only, and may be another one when a stream is closed.
        context.attach(trace.set_span_in_context(span))
        return span

    def call_ended(self, begun: object, code: str, request_id: str) -> None:
        """See tracing.call_ended."""
        assert isinstance(begun, trace.Span)
        begun.set_attributes({"rpc.grpc.status_code": code, "footfall.request_id": request_id})
        if code in _FAULTS:
            begun.set_status(StatusCode.ERROR, code)
        begun.end()

    def current(self) -> SpanContext | None:
        """See tracing.current."""
        place = trace.get_current_span().get_span_context()
        return place if place.is_valid else None

    def span(self, name: str, attributes: Mapping[str, str | int]) -> AbstractContextManager[trace.Span]:
        """See tracing.span."""
        return self._tracer.start_as_current_span(name, attributes=attributes)

    def span_of_calls(self, name: str, places: Sequence[object]) -> AbstractContextManager[trace.Span]:
        """See tracing.span_of_calls."""
        calls = [place for place in places if isinstance(place, SpanContext)]
        parent = trace.set_span_in_context(trace.NonRecordingSpan(calls[0])) if calls else None
        return self._tracer.start_as_current_span(name, parent, links=[Link(call) for call in calls[1:]])
