"""Generates realistic events of the present: UUIDv7 ids, many visitors, few pages."""

import os
import random
import time
import uuid
from datetime import UTC, datetime

from footfall.ingest.v1 import ingest_pb2
from footfall.type.v1 import event_pb2
from google.protobuf.timestamp_pb2 import Timestamp


def uuid7() -> str:
    """A UUID of version 7 (RFC 9562): milliseconds since 1970, then random bits."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))


def batch(
    events: int, rng: random.Random, *, visitors: int = 50_000, pages: int = 2_000
) -> ingest_pb2.IngestBatchRequest:
    """A batch of pageviews and a few TRACK events of one visitor, as the script of a page would send it."""
    number = rng.randrange(visitors)
    request = ingest_pb2.IngestBatchRequest()
    request.defaults.visitor_id = f"visitor-{number:06d}-{'0' * 8}"
    request.defaults.session_id = f"session-{number:06d}-{rng.randrange(3)}"
    request.defaults.context.CopyFrom(
        event_pb2.Context(
            source="web",
            device=rng.choice(("desktop", "mobile", "tablet")),
            browser=rng.choice(("Firefox", "Chrome", "Safari", "Edge")),
            os=rng.choice(("Linux", "Windows", "macOS", "Android", "iOS")),
            country=rng.choice(("DE", "FR", "US", "IN", "JP", "BR")),
            utm_source=rng.choice(("", "", "newsletter", "ads")),
        )
    )
    now = Timestamp()
    now.FromDatetime(datetime.now(UTC))
    for position in range(events):
        event = request.events.add(
            event_id=uuid7(),
            type=event_pb2.EVENT_TYPE_PAGEVIEW,
            path=f"/articles/{int(rng.paretovariate(1.0)) % pages:04d}",
            title="An article about something",
            referrer=rng.choice(("", "https://www.example.org/search", "https://news.example.net/")),
        )
        event.occurred_at.CopyFrom(Timestamp(seconds=now.seconds, nanos=position * 1000))
        if position % 10 == 9:
            event.type = event_pb2.EVENT_TYPE_TRACK
            event.name = "signup"
            event.properties.update({"plan": rng.choice(("free", "pro")), "seats": rng.randrange(10)})
    return request
