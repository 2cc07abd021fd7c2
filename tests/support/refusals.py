"""What a refused call tells its client, and the small events that calls are tried with."""

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from footfall.ingest.v1 import ingest_pb2
from footfall.query.v1 import query_pb2
from footfall.type.v1 import event_pb2
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from tests.oracle.raw_events import DAY
from tests.support.footfall_site import FootfallSite, time_range


@dataclass(frozen=True)
class Refusal:
    """What the client of a refused call is told."""

    code: grpc.StatusCode
    reason: str
    fields: tuple[str, ...] = ()


def refusal_of(call: Callable[..., object], *arguments: object, **options: object) -> Refusal:
    """The refusal of a call; each has an ErrorInfo of ours, and INVALID_ARGUMENT names its field."""
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **options)
    error: Any = caught.value
    status: Any = rpc_status.from_call(error)
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    fields: tuple[str, ...] = ()
    for detail in status.details:
        detail.Unpack(info)
        if detail.Unpack(bad):
            fields = tuple(violation.field for violation in bad.field_violations)
    assert info.domain == "footfall"
    assert re.fullmatch("[A-Z]+(_[A-Z]+)*", info.reason)
    assert status.message == error.details() != ""
    assert not re.search(r"Traceback|SELECT|psycopg|\bf[wra]_", status.message)
    # Of bytes that were not parsed, no field can be named.
    unparsed = info.reason in ("MESSAGE_MALFORMED", "MESSAGE_TOO_LARGE")
    assert fields or unparsed or error.code() is not grpc.StatusCode.INVALID_ARGUMENT
    return Refusal(error.code(), info.reason, fields)


def invalid(reason: str, field: str) -> Refusal:
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, reason, (field,))


def until_refused(call: Callable[[], object], seconds: float = 5.0) -> Refusal:
    """The refusal of a call that may go well for some seconds more."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            call()
        except grpc.RpcError:
            break
    return refusal_of(call)


def event(**given: Any) -> ingest_pb2.Event:
    """A pageview of somebody, but for what is given."""
    fields: dict[str, Any] = {"type": event_pb2.EVENT_TYPE_PAGEVIEW, "path": "/", "visitor_id": "somebody"}
    return ingest_pb2.Event(**(fields | given))


def batch(*events: ingest_pb2.Event, **defaults: Any) -> ingest_pb2.IngestBatchRequest:
    return ingest_pb2.IngestBatchRequest(defaults=ingest_pb2.EventDefaults(**defaults), events=events)


def queries(site: FootfallSite) -> Iterator[tuple[Callable[..., object], Any]]:
    """Every RPC of the query service with a request that is right."""
    span = time_range(0, DAY)
    common: dict[str, Any] = {"site": site.slug, "range": span}
    yield site.query.GetOverview, query_pb2.GetOverviewRequest(**common)
    yield site.query.GetTimeseries, query_pb2.GetTimeseriesRequest(**common, interval=query_pb2.INTERVAL_HOUR)
    yield site.query.GetTop, query_pb2.GetTopRequest(**common, dimension=query_pb2.DIMENSION_PAGE)
    yield (
        site.query.GetPropertyBreakdown,
        query_pb2.GetPropertyBreakdownRequest(**common, event_name="pageview", property_key="plan"),
    )
    yield site.query.ListEvents, query_pb2.ListEventsRequest(**common)
    yield site.query.ListSessions, query_pb2.ListSessionsRequest(**common)
    yield site.query.ListVisitors, query_pb2.ListVisitorsRequest(**common)
