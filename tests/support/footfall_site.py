"""A site of the running services, which answers in the words of the recount."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from footfall.admin.v1 import admin_pb2
from footfall.ingest.v1 import ingest_pb2
from footfall.query.v1 import query_pb2
from footfall.type.v1 import event_pb2, time_range_pb2
from google.protobuf import struct_pb2
from google.protobuf.json_format import MessageToDict, MessageToJson

from tests.oracle.answers import Metrics, SessionRow, VisitorRow
from tests.oracle.raw_events import CONTEXT_FIELDS, DAY, DIMENSIONS, HOUR, RawEvent, Scalar
from tests.oracle.recount import Recount

if TYPE_CHECKING:
    from tests.support.suite import Suite

EVENT_TYPES = {
    "pageview": event_pb2.EVENT_TYPE_PAGEVIEW,
    "track": event_pb2.EVENT_TYPE_TRACK,
    "identify": event_pb2.EVENT_TYPE_IDENTIFY,
}
TYPE_NAMES = {number: name for name, number in EVENT_TYPES.items()}
INTERVALS = {HOUR: query_pb2.INTERVAL_HOUR, DAY: query_pb2.INTERVAL_DAY}


def time_range(start: int, end: int) -> time_range_pb2.TimeRange:
    """[start, end), given in microseconds."""
    found = time_range_pb2.TimeRange()
    found.start_time.FromMicroseconds(start)
    found.end_time.FromMicroseconds(end)
    return found


def metrics_of(message: query_pb2.Metrics) -> Metrics:
    return Metrics(
        events=message.events,
        pageviews=message.pageviews,
        sessions=message.sessions,
        visitors=message.visitors,
        new_visitors=message.new_visitors,
        bounce_rate=message.bounce_rate,
        average_session_duration=message.average_session_duration.ToNanoseconds() / 1000,
    )


def scalar_of(message: struct_pb2.Value) -> Scalar:
    value: Scalar = json.loads(MessageToJson(message))
    return value


def raw_event_of(message: query_pb2.Event) -> RawEvent:
    names = ("event_id", "visitor_id", "name", "session_id", "user_id", "path", "title", "referrer")
    texts = {name: getattr(message, name) for name in names}
    context = {name: getattr(message.context, name) for name in ("source", *CONTEXT_FIELDS)}
    return RawEvent(
        type=TYPE_NAMES[message.type],
        occurred_at=message.occurred_at.ToMicroseconds(),
        properties=MessageToDict(message.properties),
        **texts,
        **context,
    )


def session_row_of(message: query_pb2.Session) -> SessionRow:
    start, end = message.start_time.ToMicroseconds(), message.end_time.ToMicroseconds()
    assert message.duration.ToMicroseconds() == end - start
    names = ("session_id", "visitor_id", "user_id", "events", "pageviews", "bounce", "new_visitor")
    return SessionRow(
        start=start,
        end=end,
        context=tuple(getattr(message.context, name) for name in CONTEXT_FIELDS),
        **{name: getattr(message, name) for name in (*names, "entry_page", "exit_page", "referrer")},
    )


def visitor_row_of(message: query_pb2.Visitor) -> VisitorRow:
    return VisitorRow(
        visitor_id=message.visitor_id,
        user_id=message.user_id,
        traits=MessageToDict(message.traits),
        first_seen=message.first_seen_at.ToMicroseconds(),
        last_seen=message.last_seen_at.ToMicroseconds(),
        first_touch=_touch_of(message.first_touch),
        last_touch=_touch_of(message.last_touch),
    )


def _touch_of(message: query_pb2.Touch) -> tuple[str, ...]:
    return (
        message.path,
        message.referrer,
        *(getattr(message.context, name) for name in ("source", *CONTEXT_FIELDS)),
    )


class FootfallSite:
    """A fresh site of the running services; its answers come in the recount's words."""

    def __init__(self, suite: "Suite", prefix: str, **settings: Any) -> None:
        self.slug = f"{prefix}-{uuid4().hex[:8]}"
        self.as_admin = (("authorization", f"Bearer {suite.admin_key}"),)
        self.ingest, self.query, self.operator = suite.ingest_stub(), suite.query_stub(), suite.admin_stub()
        made = self.operator.CreateSite(
            admin_pb2.CreateSiteRequest(
                slug=self.slug,
                settings=admin_pb2.SiteSettings(**({"retention_days": 36_500} | settings)),
            ),
            metadata=self.as_admin,
        )
        self.write_key = made.write_key
        self.as_sender = (("x-write-key", made.write_key),)

    def send(self, request: ingest_pb2.IngestBatchRequest) -> ingest_pb2.IngestBatchResponse:
        response: ingest_pb2.IngestBatchResponse = self.ingest.IngestBatch(request, metadata=self.as_sender)
        return response

    def aggregate(self, limit: int = 0) -> int:
        """Aggregates chunk by chunk until nothing is due; how many events that were."""
        aggregated, has_more = 0, True
        while has_more:
            request = admin_pb2.AggregatePendingRequest(site=self.slug, limit=limit)
            chunk = self.operator.AggregatePending(request, metadata=self.as_admin)
            assert chunk.failed == 0
            aggregated, has_more = aggregated + chunk.aggregated, chunk.has_more
        return aggregated

    def overview(self, start: int, end: int) -> Metrics:
        request = query_pb2.GetOverviewRequest(site=self.slug, range=time_range(start, end))
        response = self.query.GetOverview(request, metadata=self.as_admin)
        return metrics_of(response.metrics)

    def timeseries(self, start: int, end: int, length: int) -> list[tuple[int, Metrics]]:
        request = query_pb2.GetTimeseriesRequest(
            site=self.slug, range=time_range(start, end), interval=INTERVALS[length]
        )
        response = self.query.GetTimeseries(request, metadata=self.as_admin)
        return [(bucket.start_time.ToMicroseconds(), metrics_of(bucket.metrics)) for bucket in response.buckets]

    def top(
        self, dimension: str, start: int, end: int, order_by: str = "events", limit: int = 1000
    ) -> list[tuple[str, Metrics]]:
        request = query_pb2.GetTopRequest(
            site=self.slug,
            range=time_range(start, end),
            dimension=query_pb2.Dimension.Value(f"DIMENSION_{dimension.upper()}"),
            order_by=query_pb2.OrderBy.Value(f"ORDER_BY_{order_by.upper()}"),
            limit=limit,
        )
        response = self.query.GetTop(request, metadata=self.as_admin)
        return [(row.key, metrics_of(row.metrics)) for row in response.rows]

    def breakdown(self, event_name: str, property_key: str, start: int, end: int) -> list[tuple[Scalar, int, int]]:
        request = query_pb2.GetPropertyBreakdownRequest(
            site=self.slug,
            range=time_range(start, end),
            event_name=event_name,
            property_key=property_key,
            limit=1000,
        )
        response = self.query.GetPropertyBreakdown(request, metadata=self.as_admin)
        return [(scalar_of(row.value), row.events, row.visitors) for row in response.rows]

    def events(self, span: tuple[int, int] | None = None, page_size: int = 0) -> list[RawEvent]:
        """Every event of the list, page by page."""
        request = query_pb2.ListEventsRequest(
            site=self.slug, range=time_range(*span) if span else None, page_size=page_size
        )
        pages = walk(request, lambda page: self.query.ListEvents(page, metadata=self.as_admin))
        return [raw_event_of(event) for page in pages for event in page.events]

    def session_rows(self, span: tuple[int, int] | None = None, page_size: int = 0) -> list[SessionRow]:
        """Every session of the list, page by page."""
        request = query_pb2.ListSessionsRequest(
            site=self.slug, range=time_range(*span) if span else None, page_size=page_size
        )
        pages = walk(request, lambda page: self.query.ListSessions(page, metadata=self.as_admin))
        return [session_row_of(session) for page in pages for session in page.sessions]

    def visitors(self, span: tuple[int, int] | None = None, page_size: int = 0) -> list[VisitorRow]:
        """Every visitor of the list, page by page."""
        request = query_pb2.ListVisitorsRequest(
            site=self.slug, range=time_range(*span) if span else None, page_size=page_size
        )
        pages = walk(request, lambda page: self.query.ListVisitors(page, metadata=self.as_admin))
        return [visitor_row_of(visitor) for page in pages for visitor in page.visitors]

    def compare(self, recount: Recount, start: int, end: int) -> Iterator[tuple[str, object, object]]:
        """(query, expected, answered) of every report and list over one range."""
        yield "overview", recount.overview(start, end), self.overview(start, end)
        for name, length in (("hour", HOUR), ("day", DAY)):
            expected = recount.timeseries(start, end, length)
            yield f"timeseries by {name}", expected, self.timeseries(start, end, length)
        for dimension in DIMENSIONS:
            yield f"top of {dimension}", recount.top(dimension, start, end), self.top(dimension, start, end)
        sessions, events = self.session_rows((start, end)), self.events((start, end))
        yield "sessions", sorted(recount.session_rows(start, end)), sorted(sessions)
        yield (
            "order of sessions",
            sorted((row.start for row in sessions), reverse=True),
            [row.start for row in sessions],
        )
        visitors = self.visitors((start, end))
        yield "visitors", sorted(recount.visitor_rows(start, end)), sorted(visitors)
        yield (
            "order of visitors",
            sorted((row.first_seen for row in visitors), reverse=True),
            [row.first_seen for row in visitors],
        )
        stored = [replace(event, name=event.name.strip()) for event in recount.events(start, end)]
        yield "events", stored, sorted(events, key=lambda event: event.order)
        yield (
            "order of events",
            sorted((event.occurred_at for event in events), reverse=True),
            [event.occurred_at for event in events],
        )


def walk(request: Any, ask: Callable[[Any], Any]) -> Iterator[Any]:
    """Every page of a list; has_more must say the same as next_page_token."""
    while True:
        page = ask(request)
        assert page.has_more == (page.next_page_token != "")
        yield page
        if not page.has_more:
            return
        request.page_token = page.next_page_token
