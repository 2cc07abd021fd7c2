"""Raw events as their senders meant them, and what every dimension makes of one.

Times are whole microseconds since 1970 UTC.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from uuid import UUID

Scalar = str | float | bool | None

MILLISECOND = 1_000
SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

CONTEXT_FIELDS = ("device", "browser", "os", "country", "utm_source", "utm_medium", "utm_campaign")
TOUCH_FIELDS = ("path", "referrer", "source", *CONTEXT_FIELDS)
SESSION_DIMENSIONS = ("entry_page", "exit_page")
DIMENSIONS = ("event", "page", "referrer", *CONTEXT_FIELDS, *SESSION_DIMENSIONS)


def stored_id(event_id: str) -> UUID:
    """What an event id becomes: a UUID written as UUIDs are is itself, any other text a hash of its own."""
    digits = event_id.replace("-", "").lower()
    if len(digits) == 32 and set(digits) <= set("0123456789abcdef") and event_id.lower() == str(UUID(digits)):
        return UUID(digits)
    return UUID(bytes=blake2b(event_id.encode(), digest_size=16, person=b"event id").digest())


@dataclass(frozen=True)
class RawEvent:
    """One event as its sender meant it, batch defaults merged; "" means absent."""

    event_id: str
    type: str
    """ "pageview", "track" or "identify"."""
    occurred_at: int
    visitor_id: str
    name: str = ""
    session_id: str = ""
    user_id: str = ""
    path: str = ""
    title: str = ""
    referrer: str = ""
    source: str = ""
    device: str = ""
    browser: str = ""
    os: str = ""
    country: str = ""
    utm_source: str = ""
    utm_medium: str = ""
    utm_campaign: str = ""
    properties: Mapping[str, Scalar] = field(default_factory=dict, hash=False)

    @property
    def order(self) -> tuple[int, bytes]:
        """Where the event stands among all others: by time, of one instant by what its id becomes."""
        return self.occurred_at, stored_id(self.event_id).bytes


def event_key(event: RawEvent) -> str:
    """What DIMENSION_EVENT calls the event."""
    return event.name.strip() if event.type == "track" else event.type


def key_of_event(dimension: str, event: RawEvent) -> str:
    """The key a dimension gives an event; "" is none."""
    if dimension == "event":
        return event_key(event)
    if dimension == "page":
        return event.path if event.type == "pageview" else ""
    key: str = getattr(event, dimension)
    return key


def json_text(value: Scalar) -> str:
    """A property's value as JSON; 2.0 and 2 are one number."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, ensure_ascii=False)
