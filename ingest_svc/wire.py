"""Events of a request → rows ready to be stored. Pure.

A row's texts are encoded for COPY here, where calls run side by side, and not in the transaction.
"""

import json
import re
import uuid
import zlib
from datetime import datetime, timedelta
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

from footfall.ingest.v1 import ingest_pb2

from common.dimensions import EventType
from common.errors import Reason
from common.sites import Site
from common.timestamps import EPOCH, duration_micros
from ingest_svc.validate import IngestRequest, Rejection, TimeBounds, checked_id, cut_text, kept_properties

COPY_COLUMNS = (
    "occurred_at",
    "received_at",
    "batch_id",
    "site_id",
    "ord",
    "event_id",
    "type",
    "visitor_id",
    "session_id",
    "user_id",
    "event_id_text",
    "name",
    "path",
    "title",
    "referrer",
    "source",
    "device",
    "browser",
    "os",
    "country",
    "utm_source",
    "utm_medium",
    "utm_campaign",
    "properties",
)
"""The columns of `events` in the order in which a row's texts stand."""

_TEXTS = ("visitor_id", "session_id", "user_id", "event_id", "name", "path", "title", "referrer")
_CONTEXT = ("source", "device", "browser", "os", "country", "utm_source", "utm_medium", "utm_campaign")
_TYPES = frozenset(EventType)
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class Row(NamedTuple):
    """One event on its way into the tables; batch_id, site_id and ord come between `times` and `texts`."""

    lane: int
    dedupe_key: str | None
    """The UUID in lower case, or None for an event that is never a duplicate."""
    times: str
    texts: str


def to_rows(request: IngestRequest, site: Site, now: datetime) -> tuple[list[Row], list[ingest_pb2.EventError]]:
    """The request's good events as rows, and an error for each of the others, both in order."""
    encoder = _Encoder(request.defaults, site, now)
    rows: list[Row] = []
    errors: list[ingest_pb2.EventError] = []
    for index, event in enumerate(request.events):
        try:
            rows.append(encoder.row(index, event))
        except Rejection as rejection:
            errors.append(ingest_pb2.EventError(index=index, reason=rejection.reason, message=rejection.message))
    return rows, errors


class _Encoder:
    """Encodes the events of one batch; what they share is read and encoded once.

    This is where ingest spends its own time. Each access to a field of a message makes a new object, so every
    field is read once, and what is short enough to be right is not measured in bytes.
    """

    def __init__(self, defaults: ingest_pb2.EventDefaults, site: Site, now: datetime) -> None:
        self._visitor_id, self._session_id, self._user_id = defaults.visitor_id, defaults.session_id, defaults.user_id
        self._context = [getattr(defaults.context, name) for name in _CONTEXT]
        self._encoded_context = _encode(_CONTEXT, [cut_text(text) for text in self._context])
        self._bounds = TimeBounds.of(site, now)
        self._now = duration_micros(now - EPOCH)
        self._received_at = _iso(self._now)
        self._lanes = site.rollup_shard_count
        self._allowed, self._denied = frozenset(site.allowed_property_keys), frozenset(site.denied_property_keys)

    def row(self, index: int, event: ingest_pb2.Event) -> Row:
        """The event as a row. Raises Rejection."""
        kind = int(event.type)
        if kind not in _TYPES:
            raise Rejection(Reason.EVENT_TYPE_REQUIRED, "type must be PAGEVIEW, TRACK or IDENTIFY")
        name = checked_id("name", event.name.strip())
        if not name and kind == EventType.TRACK:
            raise Rejection(Reason.EVENT_NAME_REQUIRED, "name is empty; a TRACK event needs one")
        visitor = checked_id("visitor_id", event.visitor_id) or self._visitor_id
        session = checked_id("session_id", event.session_id) or self._session_id
        sent_id = checked_id("event_id", event.event_id)
        # Events without a time lie a µs apart, so that those of a batch keep their order.
        timed = event.HasField("occurred_at")
        occurred_at = self._bounds.check(event.occurred_at) if timed else self._now + index
        event_id, dedupe_key = _identify(event, sent_id, visitor, session, name)
        texts = [
            visitor,
            session,
            checked_id("user_id", event.user_id) or self._user_id,
            "" if sent_id == event_id else sent_id,
            name,
            cut_text(event.path),
            cut_text(event.title),
            cut_text(event.referrer),
        ]
        encoded = f"{event_id}\t{kind}\t{_encode(_TEXTS, texts)}\t{self._own_context(event)}\t{self._properties(event)}"
        lane = zlib.crc32(visitor.encode()) % self._lanes if self._lanes > 1 else 0
        return Row(lane, dedupe_key, f"{_iso(occurred_at)}\t{self._received_at}", encoded)

    def _own_context(self, event: ingest_pb2.Event) -> str:
        if not event.HasField("context"):
            return self._encoded_context
        context = event.context
        texts = [
            cut_text(getattr(context, name) or default) for name, default in zip(_CONTEXT, self._context, strict=True)
        ]
        return _encode(_CONTEXT, texts)

    def _properties(self, event: ingest_pb2.Event) -> str:
        if not event.HasField("properties"):
            return ""
        kept = kept_properties(event.properties, self._allowed, self._denied)
        # JSON escapes every control character; only its own backslashes need another for COPY.
        return json.dumps(kept, ensure_ascii=False, separators=(",", ":")).replace("\\", "\\\\") if kept else ""


@lru_cache(maxsize=4096)
def _iso_second(second: int) -> str:
    return (EPOCH + timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%S")


def _iso(micros: int) -> str:
    """An instant given in µs since 1970 UTC, as Postgres reads it; events come in close together."""
    second, micro = divmod(micros, 1_000_000)
    return f"{_iso_second(second)}.{micro:06d}+00"


def _identify(event: ingest_pb2.Event, sent_id: str, visitor: str, session: str, name: str) -> tuple[str, str | None]:
    """The event's UUID and its dedupe key."""
    if sent_id:
        lowered = sent_id.lower()
        if not _UUID.fullmatch(lowered):
            lowered = _hashed(b"event id", sent_id.encode())
        return lowered, lowered
    if not event.HasField("occurred_at"):
        return str(uuid.uuid4()), None
    # JSON keeps the parts apart, whatever characters they hold.
    when = event.occurred_at
    parts = json.dumps([visitor, session, when.seconds, when.nanos, event.type, name, event.path]).encode()
    content = _hashed(b"event content", parts + b"\0" + event.properties.SerializeToString(deterministic=True))
    return content, content


def _hashed(kind: bytes, data: bytes) -> str:
    """128 bits as the text of a UUID; `kind` keeps ids and contents from ever meeting."""
    return str(uuid.UUID(bytes=blake2b(data, digest_size=16, person=kind).digest()))


def _encode(names: tuple[str, ...], texts: list[str]) -> str:
    """The texts as COPY fields, where the empty text stands for NULL. Raises Rejection for a NUL character."""
    joined = "\0".join(texts)
    if joined.count("\0") != len(texts) - 1:
        field = next(name for name, text in zip(names, texts, strict=True) if "\0" in text)
        raise Rejection(Reason.TEXT_HAS_NUL, f"{field} holds a NUL character; remove it")
    if "\\" in joined:
        joined = joined.replace("\\", "\\\\")
    if "\t" in joined:
        joined = joined.replace("\t", "\\t")
    if "\n" in joined:
        joined = joined.replace("\n", "\\n")
    if "\r" in joined:
        joined = joined.replace("\r", "\\r")
    return joined.replace("\0", "\t")
