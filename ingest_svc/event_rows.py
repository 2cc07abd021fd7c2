"""Turns the events of a request into rows that are ready to be stored. Pure.

A row is encoded for COPY here, on the event loop, so that little is left to do in the transaction. judge.py has the
rules that reject an event, copy_format.py the form of the bytes.
"""

import json
import uuid
import zlib
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache, partial
from typing import NamedTuple, cast

from footfall.ingest.v1 import ingest_pb2
from footfall.type.v1 import event_pb2
from google.protobuf.struct_pb2 import Struct

from common.event_columns import CONTEXT_COLUMNS
from common.sites import Site
from common.timestamps import EPOCH, duration_micros
from ingest_svc.copy_format import NULL, event_start, json_field, text_field
from ingest_svc.event_ids import context_content, hashed_content, hashed_id, uuid_bytes
from ingest_svc.judge import IngestRequest, Rejection, TimeBounds, cut_text, judge, kept_properties, without_nul

# Paths, titles and contexts repeat, so their encoded forms are cached: only those of short ones, a few MB in all.
_LONGEST_COMMON_TEXT = 200
_MOST_COMMON_TEXTS = 16_384
_COMMON_TEXTS: dict[str, bytes] = {}
_common = _COMMON_TEXTS.get
_LONGEST_COMMON_CONTEXT = 400
_LONGEST_COMMON_PROPERTIES = 200

_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Row(NamedTuple):
    """One event as it is stored."""

    partition: int
    dedupe_key: bytes | None
    """The 16 bytes of a UUID, or None for an event that is never a duplicate."""
    fields: bytes
    """Its columns from occurred_at on, in the order of common/event_columns.py and the form of copy_format.py."""


# Faster than the constructor of a named tuple, which is a Python function.
_new_row = cast(Callable[[tuple[int, bytes | None, bytes]], Row], partial(tuple.__new__, Row))


def to_rows(request: IngestRequest, site: Site, now: datetime) -> tuple[list[Row], list[ingest_pb2.EventError]]:
    """The valid events of a request as rows, and an error for each of the others, both in the order of the request."""
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
    """Encodes the events of one batch. The defaults of the batch are encoded once.

    The CPU time of ingest is spent here, so texts that were encoded before are looked up in a cache.
    """

    def __init__(self, defaults: ingest_pb2.EventDefaults, site: Site, now: datetime) -> None:
        self._visitor_id, self._session_id, self._user_id = defaults.visitor_id, defaults.session_id, defaults.user_id
        self._who = b"".join(map(text_field, (self._visitor_id, self._session_id, self._user_id)))
        self._default_context = defaults.context.SerializeToString()
        self._context = self._own_context(b"")
        self._bounds = TimeBounds.of(site, now)
        self._now = duration_micros(now - EPOCH)
        self._partitions = site.rollup_shard_count
        self._partition = self._partition_of(self._visitor_id)
        self._allowed, self._denied = frozenset(site.allowed_property_keys), frozenset(site.denied_property_keys)

    def row(self, index: int, event: ingest_pb2.Event) -> Row:
        """The event as a row. Raises Rejection."""
        kind, name, visitor, session, user, sent_id, occurred_at = judge(event, self._bounds, self._visitor_id)
        if visitor or session or user:
            who = (
                _own_text("visitor_id", visitor or self._visitor_id)
                + _own_text("session_id", session or self._session_id)
                + _own_text("user_id", user or self._user_id)
            )
        else:
            who = self._who
        path, title, referrer = event.path, event.title, event.referrer
        context = event.context.SerializeToString() if event.HasField("context") else b""
        id_text = NULL
        dedupe_key: bytes | None
        if sent_id:
            found = uuid_bytes(sent_id)
            # The id's text is stored too if it does not follow from the UUID.
            if found is None or sent_id != sent_id.lower():
                id_text = _own_text("event_id", sent_id)
            event_id = dedupe_key = hashed_id(sent_id) if found is None else found
        elif occurred_at is not None:
            when = event.occurred_at
            event_id = dedupe_key = hashed_content(
                (visitor or self._visitor_id, session or self._session_id, when.seconds, when.nanos, kind, name, path),
                (title, referrer, user or self._user_id, self._context_content(context)),
                event.properties.SerializeToString(deterministic=True) if event.HasField("properties") else b"",
            )
        else:
            event_id, dedupe_key = uuid.uuid4().bytes, None
        fields = b"".join(
            (
                # Events without a time get times a µs apart, so that the events of a batch keep their order.
                event_start(self._now + index if occurred_at is None else occurred_at, self._now, event_id, kind),
                who,
                id_text,
                _common(name) or _common_text("name", name),
                _common(path) or _common_text("path", path),
                _common(title) or _common_text("title", title),
                _common(referrer) or _common_text("referrer", referrer),
                self._own_context(context) if context else self._context,
                self._properties(event.properties) if event.HasField("properties") else NULL,
            )
        )
        return _new_row((self._partition_of(visitor) if visitor else self._partition, dedupe_key, fields))

    def _partition_of(self, visitor: str) -> int:
        return zlib.crc32(visitor.encode()) % self._partitions if self._partitions > 1 else 0

    def _own_context(self, own: bytes) -> bytes:
        both = len(own) + len(self._default_context)
        return (_common_context if both <= _LONGEST_COMMON_CONTEXT else _context_fields)(own, self._default_context)

    def _context_content(self, own: bytes) -> str:
        both = len(own) + len(self._default_context)
        content_of = _common_context_content if both <= _LONGEST_COMMON_CONTEXT else context_content
        return content_of(own, self._default_context) if both else ""

    def _properties(self, properties: Struct) -> bytes:
        # Properties whose values come from short lists repeat and are found in the cache. Those with an id or a price
        # cost a look-up that finds nothing.
        sent = properties.SerializeToString()
        encode = _common_properties if len(sent) <= _LONGEST_COMMON_PROPERTIES else _property_field
        return encode(sent, self._allowed, self._denied)


def _own_text(field: str, text: str) -> bytes:
    """The text as a field of a row. Raises Rejection for a NUL character."""
    return text_field(without_nul(field, text))


def _common_text(field: str, text: str) -> bytes:
    """As `_own_text`, but cut to 2,000 bytes, and cached if the text is short. Raises Rejection for a NUL character."""
    encoded = _own_text(field, cut_text(text))
    if len(text) <= _LONGEST_COMMON_TEXT:
        if len(_COMMON_TEXTS) >= _MOST_COMMON_TEXTS:
            _COMMON_TEXTS.clear()
        _COMMON_TEXTS[text] = encoded
    return encoded


def _context_fields(own: bytes, default: bytes) -> bytes:
    """The columns of a context merged into a default one, both serialised. Raises Rejection for a NUL character."""
    context = event_pb2.Context.FromString(default + own)
    return b"".join(_own_text(name, cut_text(getattr(context, name))) for name in CONTEXT_COLUMNS)


def _property_field(sent: bytes, allowed: frozenset[str], denied: frozenset[str]) -> bytes:
    """The column `properties` for a serialised Struct. Raises Rejection as `kept_properties` does."""
    kept = kept_properties(Struct.FromString(sent), allowed, denied)
    return json_field(_to_json(kept)) if kept else NULL


_common_properties = lru_cache(maxsize=4096)(_property_field)
_common_context = lru_cache(maxsize=2048)(_context_fields)
_common_context_content = lru_cache(maxsize=2048)(context_content)
