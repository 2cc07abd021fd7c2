"""Converts rows to messages of QueryService. Pure."""

from datetime import datetime
from typing import Any, NamedTuple

from footfall.query.v1 import query_pb2
from footfall.type.v1 import event_pb2, time_range_pb2
from google.protobuf import json_format

from common.event_columns import CONTEXT_COLUMNS
from common.timestamps import duration_micros, to_duration, to_timestamp
from query_svc.effective_range import EffectiveRange
from query_svc.measure import Counters

_SESSION_CONTEXT = CONTEXT_COLUMNS[1:]
"""Sessions have no source."""


def metrics(counters: Counters, visitors: int) -> query_pb2.Metrics:
    """The metrics of a bucket or key."""
    sessions = counters.sessions
    return query_pb2.Metrics(
        events=counters.events,
        pageviews=counters.pageviews,
        sessions=sessions,
        visitors=visitors,
        new_visitors=counters.new_visitors,
        bounce_rate=counters.bounces / sessions if sessions else 0.0,
        average_session_duration=to_duration(round(counters.duration_us / sessions) if sessions else 0),
    )


def bucket(start: datetime, found: query_pb2.Metrics) -> query_pb2.TimeBucket:
    """One bucket of a timeseries."""
    return query_pb2.TimeBucket(start_time=to_timestamp(start), metrics=found)


def top_row(key: str, counters: Counters, visitors: int) -> query_pb2.TopRow:
    """One row of a top list."""
    return query_pb2.TopRow(key=key, metrics=metrics(counters, visitors))


class State(NamedTuple):
    """How far a site is aggregated at the instant of the snapshot."""

    aggregated_through: datetime
    pending: int
    failed: int
    rebuilding: bool
    """Whether a rebuild under way has left the site's rollups incomplete."""


def metadata(found: EffectiveRange, state: State, *, exact: bool = True) -> query_pb2.ReportMetadata:
    """The range that a report is of, and how far aggregation is. `exact` tells whether the report's other ranges are
    exact."""
    return query_pb2.ReportMetadata(
        effective_range=time_range_pb2.TimeRange(
            start_time=to_timestamp(found.starts[0]), end_time=to_timestamp(found.end)
        ),
        exact=found.exact and exact and not state.rebuilding,
        aggregated_through=to_timestamp(state.aggregated_through),
        pending_events=state.pending,
        failed_events=state.failed,
    )


def event(row: Any) -> query_pb2.Event:
    """A row of the list of events."""
    message = query_pb2.Event(
        event_id=row.event_id,
        type=row.type,
        name=row.name or "",
        occurred_at=to_timestamp(row.occurred_at),
        visitor_id=row.visitor_id,
        session_id=row.session_id or "",
        user_id=row.user_id or "",
        path=row.path or "",
        title=row.title or "",
        referrer=row.referrer or "",
        context=_context(row, source=row.source or ""),
        received_at=to_timestamp(row.received_at),
    )
    if row.properties is not None:
        json_format.ParseDict(row.properties, message.properties)
    return message


def session(row: Any) -> query_pb2.Session:
    """A row of the list of sessions."""
    return query_pb2.Session(
        session_id=row.session_id,
        visitor_id=row.visitor_id,
        user_id=row.user_id or "",
        start_time=to_timestamp(row.started_at),
        end_time=to_timestamp(row.ended_at),
        duration=to_duration(duration_micros(row.ended_at - row.started_at)),
        events=row.events,
        pageviews=row.pageviews,
        bounce=row.pageviews <= 1,
        new_visitor=row.new_visitor,
        entry_page=row.entry_page or "",
        exit_page=row.exit_page or "",
        referrer=row.referrer or "",
        context=_context(row),
    )


def visitor(row: Any) -> query_pb2.Visitor:
    """A row of the list of visitors."""
    message = query_pb2.Visitor(
        visitor_id=row.visitor_id,
        user_id=row.user_id or "",
        first_seen_at=to_timestamp(row.first_seen_at),
        last_seen_at=to_timestamp(row.last_seen_at),
        first_touch=_touch(row.first_touch),
        last_touch=_touch(row.last_touch),
    )
    if row.traits is not None:
        json_format.ParseDict(row.traits, message.traits)
    return message


def _touch(said: dict[str, str] | None) -> query_pb2.Touch | None:
    """A touch from a visitor's row; None if the row has none (see migration 0010)."""
    if said is None:
        return None
    page = {name: said[name] for name in ("path", "referrer") if name in said}
    context = {name: value for name, value in said.items() if name not in page}
    return query_pb2.Touch(**page, context=event_pb2.Context(**context))


def _context(row: Any, source: str = "") -> event_pb2.Context:
    return event_pb2.Context(source=source, **{name: getattr(row, name) or "" for name in _SESSION_CONTEXT})
