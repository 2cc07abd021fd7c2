"""Batches of a stream's events as they are sent."""

from collections.abc import Sequence

from footfall.ingest.v1 import ingest_pb2
from footfall.type.v1 import event_pb2
from google.protobuf import duration_pb2

from tests.oracle.raw_events import CONTEXT_FIELDS, SECOND, RawEvent
from tests.support.footfall_site import EVENT_TYPES


def duration(micros: int) -> duration_pb2.Duration:
    """A length given in microseconds."""
    return duration_pb2.Duration(seconds=micros // SECOND, nanos=micros % SECOND * 1000)


def request_of(events: Sequence[RawEvent], *, with_defaults: bool = False) -> ingest_pb2.IngestBatchRequest:
    """The events as one batch; `with_defaults` says once for all of them what they share."""
    names = ("visitor_id", "session_id", "user_id") if with_defaults else ()
    shared = [name for name in names if len({getattr(event, name) for event in events}) == 1]
    return ingest_pb2.IngestBatchRequest(
        defaults=ingest_pb2.EventDefaults(**{name: getattr(events[0], name) for name in shared}),
        events=[_message(event, shared) for event in events],
    )


def _message(event: RawEvent, without: Sequence[str]) -> ingest_pb2.Event:
    names = ("event_id", "name", "visitor_id", "session_id", "user_id", "path", "title", "referrer")
    message = ingest_pb2.Event(
        type=EVENT_TYPES[event.type], **{name: getattr(event, name) for name in names if name not in without}
    )
    message.occurred_at.FromMicroseconds(event.occurred_at)
    context = {name: getattr(event, name) for name in ("source", *CONTEXT_FIELDS) if getattr(event, name)}
    if context:
        message.context.MergeFrom(event_pb2.Context(**context))
    if event.properties:
        message.properties.update(dict(event.properties))
    return message
