"""The columns of `events`, in the order in which COPY writes them and statements read them."""

from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID


class EventRow(NamedTuple):
    """A row of `events`. Absent texts are None."""

    batch_id: int
    site_id: int
    ord: int
    occurred_at: datetime
    received_at: datetime
    event_id: UUID
    type: int
    visitor_id: str
    session_id: str | None
    user_id: str | None
    event_id_text: str | None
    name: str | None
    path: str | None
    title: str | None
    referrer: str | None
    source: str | None
    device: str | None
    browser: str | None
    os: str | None
    country: str | None
    utm_source: str | None
    utm_medium: str | None
    utm_campaign: str | None
    properties: dict[str, Any] | None


EVENT_COLUMNS = EventRow._fields
CONTEXT_COLUMNS = EVENT_COLUMNS[EVENT_COLUMNS.index("source") : EVENT_COLUMNS.index("properties")]
"""The columns that hold a `footfall.type.v1.Context`. They have the names of its fields."""
