"""Events of a request → rows ready to be stored. Pure.

A row's texts are encoded for COPY here, where calls run side by side, and not in the transaction.
"""

import json
import re
import uuid
import zlib
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import NamedTuple

from footfall.ingest.v1 import ingest_pb2

from common.dimensions import EventType
from common.errors import Reason
from common.sites import Site
from common.timestamps import EPOCH
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

_TEXTS = COPY_COLUMNS[COPY_COLUMNS.index("type") + 1 :]
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
    bounds = TimeBounds.of(site, now)
    received_at = now.isoformat()
    allowed, denied = frozenset(site.allowed_property_keys), frozenset(site.denied_property_keys)
    defaults = request.defaults
    # The proto's getters make a new object at each access; read the defaults once.
    visitor_id, session_id, user_id = defaults.visitor_id, defaults.session_id, defaults.user_id
    context = [getattr(defaults.context, name) for name in _CONTEXT]
    rows: list[Row] = []
    errors: list[ingest_pb2.EventError] = []
    for index, event in enumerate(request.events):
        try:
            kind = int(event.type)
            if kind not in _TYPES:
                raise Rejection(Reason.EVENT_TYPE_REQUIRED, "type must be PAGEVIEW, TRACK or IDENTIFY")
            name = checked_id("name", event.name.strip())
            if kind == EventType.TRACK and not name:
                raise Rejection(Reason.EVENT_NAME_REQUIRED, "name is empty; a TRACK event needs one")
            visitor = checked_id("visitor_id", event.visitor_id) or visitor_id
            session = checked_id("session_id", event.session_id) or session_id
            sent_id = checked_id("event_id", event.event_id)
            if event.HasField("occurred_at"):
                occurred_at = (EPOCH + timedelta(microseconds=bounds.check(event.occurred_at))).isoformat()
            else:
                occurred_at = received_at
            event_id, dedupe_key = _identify(event, sent_id, visitor, session, name)
            if event.HasField("properties"):
                kept = kept_properties(event.properties, allowed, denied)
                properties = json.dumps(kept, ensure_ascii=False, separators=(",", ":")) if kept else ""
            else:
                properties = ""
            own = event.context if event.HasField("context") else None
            texts = [
                visitor,
                session,
                checked_id("user_id", event.user_id) or user_id,
                "" if sent_id == event_id else sent_id,
                name,
                cut_text(event.path),
                cut_text(event.title),
                cut_text(event.referrer),
            ]
            if own is None:
                texts += context
            else:
                texts += [getattr(own, key) or default for key, default in zip(_CONTEXT, context, strict=True)]
            texts[8:] = map(cut_text, texts[8:])
            texts.append(properties)
            encoded = f"{event_id}\t{kind}\t{_encode(texts)}"
        except Rejection as rejection:
            errors.append(ingest_pb2.EventError(index=index, reason=rejection.reason, message=rejection.message))
        else:
            lane = zlib.crc32(visitor.encode()) % site.rollup_shard_count
            rows.append(Row(lane, dedupe_key, f"{occurred_at}\t{received_at}", encoded))
    return rows, errors


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


def _encode(texts: list[str]) -> str:
    """The texts as COPY fields, where the empty text stands for NULL. Raises Rejection for a NUL character."""
    joined = "\0".join(texts)
    if joined.count("\0") != len(texts) - 1:
        field = next(name for name, text in zip(_TEXTS, texts, strict=True) if "\0" in text)
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
