"""Decides whether a batch or an event is accepted. Pure: no clock, no database.

A bad batch is refused as a whole with a CallError. A bad event raises Rejection, and the others of its batch are
stored.
"""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

from footfall.ingest.v1 import ingest_pb2
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from common.dimensions import EventType
from common.errors import Reason, invalid, quoted
from common.sites import Site
from common.timestamps import EPOCH, duration_micros

MAX_ID_BYTES = 256
MAX_TEXT_BYTES = 2000
MAX_PROPERTY_KEYS = 32
MAX_PROPERTY_BYTES = 4096
MAX_AHEAD = timedelta(hours=24)

# A character has at most 4 bytes, so shorter strings need not be encoded to be measured.
_SHORT_ID = MAX_ID_BYTES // 4
_SHORT_TEXT = MAX_TEXT_BYTES // 4

_TYPES = frozenset(map(int, EventType))
_TRACK = int(EventType.TRACK)

IngestRequest = ingest_pb2.IngestBatchRequest | ingest_pb2.IngestStreamRequest
Scalar = str | float | int | bool | None


@dataclass
class Rejection(Exception):  # noqa: N818  # not an error, but the outcome of an event
    """An event is rejected. Holds the reason and the message of its EventError."""

    reason: Reason
    message: str


def check_defaults(request: IngestRequest) -> None:
    """Raises CallError (INVALID_ARGUMENT) if the batch cannot be accepted because of its defaults."""
    defaults = request.defaults
    for field in ("visitor_id", "session_id", "user_id"):
        value: str = getattr(defaults, field)
        if len(value) > _SHORT_ID and len(value.encode()) > MAX_ID_BYTES:
            raise invalid(f"defaults.{field}", Reason.ID_TOO_LONG, f"is longer than {MAX_ID_BYTES} bytes")
        if "\0" in value:
            raise invalid(f"defaults.{field}", Reason.TEXT_HAS_NUL, "holds a NUL character; remove it")
    for descriptor, text in defaults.context.ListFields():
        if "\0" in text:
            raise invalid(
                f"defaults.context.{descriptor.name}", Reason.TEXT_HAS_NUL, "holds a NUL character; remove it"
            )


def checked_id(field: str, value: str) -> str:
    """An id or name of at most 256 bytes. Raises Rejection for a longer one."""
    if len(value) > _SHORT_ID and len(value.encode()) > MAX_ID_BYTES:
        raise Rejection(Reason.ID_TOO_LONG, f"{field} is longer than {MAX_ID_BYTES} bytes")
    return value


def without_nul(field: str, text: str) -> str:
    """The text itself. Raises Rejection for a NUL character, which Postgres cannot store."""
    if "\0" in text:
        raise Rejection(Reason.TEXT_HAS_NUL, f"{field} holds a NUL character; remove it")
    return text


def cut_text(value: str) -> str:
    """The text, cut at the end of a character to at most 2,000 bytes of UTF-8."""
    if len(value) <= _SHORT_TEXT:
        return value
    encoded = value.encode()
    return value if len(encoded) <= MAX_TEXT_BYTES else encoded[:MAX_TEXT_BYTES].decode("utf-8", "ignore")


@dataclass(frozen=True, slots=True)
class TimeBounds:
    """The bounds of `occurred_at`, in µs since 1970 UTC, both included."""

    earliest: int
    latest: int
    retention_days: int

    @classmethod
    def of(cls, site: Site, now: datetime) -> "TimeBounds":
        """From the site's raw retention (but not before 1970) to 24 h ahead of `now`."""
        present = duration_micros(now - EPOCH)
        return cls(
            max(0, present - duration_micros(site.raw_retention)),
            present + duration_micros(MAX_AHEAD),
            site.raw_retention.days,
        )

    def check(self, value: Timestamp) -> int:
        """The instant in µs since 1970 UTC. Raises Rejection outside the bounds."""
        if not 0 <= value.nanos < 1_000_000_000:
            raise Rejection(Reason.OCCURRED_AT_INVALID, "occurred_at.nanos must be 0–999,999,999")
        micros = value.seconds * 1_000_000 + value.nanos // 1000
        if micros < self.earliest:
            raise Rejection(
                Reason.OCCURRED_AT_TOO_OLD,
                f"occurred_at is older than the site keeps raw events ({self.retention_days} days), or before 1970",
            )
        if micros > self.latest:
            raise Rejection(
                Reason.OCCURRED_AT_TOO_NEW,
                "occurred_at is more than 24 h ahead of the server's clock; check yours",
            )
        return micros


def judge(
    event: ingest_pb2.Event, bounds: TimeBounds, default_visitor: str
) -> tuple[int, str, str, str, str, str, int | None]:
    """Type, name, visitor id, session id, user id, event id and time of an event, as they are stored.

    The name is stripped, the time is in µs since 1970 UTC, absent fields are "" or None. Each field of a message is
    read once, because each access makes a new object. Raises Rejection.
    """
    kind = event.type
    if kind not in _TYPES:
        raise Rejection(Reason.EVENT_TYPE_REQUIRED, "type must be PAGEVIEW, TRACK or IDENTIFY")
    name = event.name
    if name:
        name = name.strip()
        if len(name) > _SHORT_ID:
            checked_id("name", name)
    if not name and kind == _TRACK:
        raise Rejection(Reason.EVENT_NAME_REQUIRED, "name is empty; a TRACK event needs one")
    visitor, session, user, event_id = event.visitor_id, event.session_id, event.user_id, event.event_id
    if visitor or session or user:
        checked_id("visitor_id", visitor)
        checked_id("session_id", session)
        checked_id("user_id", user)
    if not (visitor or default_visitor):
        raise Rejection(Reason.VISITOR_REQUIRED, "visitor_id is empty, and so is defaults.visitor_id; set one of them")
    if len(event_id) > _SHORT_ID:
        checked_id("event_id", event_id)
    at = bounds.check(event.occurred_at) if event.HasField("occurred_at") else None
    return kind, name, visitor, session, user, event_id, at


def kept_properties(properties: Struct, allowed: frozenset[str], denied: frozenset[str]) -> dict[str, Scalar]:
    """The properties to store. The allow and deny lists are applied first, then the first 32 keys in order are taken,
    then those are checked.

    A key that is dropped cannot get the event rejected. Raises Rejection for a kept key or value that is not valid.
    """
    fields = properties.fields
    keys = sorted(key for key in fields if key not in denied and (not allowed or key in allowed))
    kept: dict[str, Scalar] = {}
    size = 0
    for key in keys[:MAX_PROPERTY_KEYS]:
        if len(key) > _SHORT_ID and len(key.encode()) > MAX_ID_BYTES:
            raise Rejection(Reason.ID_TOO_LONG, f"the properties key {quoted(key)} is longer than {MAX_ID_BYTES} bytes")
        if "\0" in key:
            raise Rejection(Reason.TEXT_HAS_NUL, f"the properties key {quoted(key)} holds a NUL character; remove it")
        value = fields[key]
        match value.WhichOneof("kind"):
            case "string_value":
                text = value.string_value
                if "\0" in text:
                    raise Rejection(Reason.TEXT_HAS_NUL, f"properties[{quoted(key)}] holds a NUL character; remove it")
                size += len(text.encode())
                kept[key] = text
            case "number_value":
                number = value.number_value
                if not math.isfinite(number):
                    raise Rejection(Reason.PROPERTY_NOT_FINITE, f"properties[{quoted(key)}] is not a finite number")
                size += 8
                # A Struct holds only doubles. Whole numbers are stored as integers.
                kept[key] = int(number) if number.is_integer() and abs(number) < 2**53 else number
            case "bool_value":
                size += 1
                kept[key] = value.bool_value
            case "struct_value" | "list_value":
                raise Rejection(
                    Reason.PROPERTY_NOT_SCALAR,
                    f"properties[{quoted(key)}] is nested; send strings, numbers, bools or null",
                )
            case _:
                kept[key] = None
    if size > MAX_PROPERTY_BYTES:
        raise Rejection(
            Reason.PROPERTIES_TOO_LARGE,
            f"the properties' values have {size} bytes, {MAX_PROPERTY_BYTES} are allowed",
        )
    return kept
