"""The visitors of a chunk of events: they are read and locked, get numbers, and are added or updated."""

import json
from collections.abc import Mapping
from datetime import datetime
from operator import attrgetter
from typing import Any, NamedTuple

import psycopg

from admin_svc.counting.array_parameters import unnest
from admin_svc.counting.reads import NewNumbers, Reads, Statement
from admin_svc.counting.sessionize import Event
from common.dimensions import EventType
from common.event_columns import CONTEXT_COLUMNS

# The columns that are read of a visitor before a chunk changes it.
_LOCKED = (
    "visitor_id, visitor_no, first_seen_at, first_event_id::text, first_session_id, last_seen_at, "
    "last_event_id::text, identified_at, identified_event_id::text"
)

# The stored visitors among some ids. They are locked in the order of their ids, so that two workers cannot deadlock.
_LOCK = f"""
SELECT {_LOCKED} FROM visitors WHERE site_id = %(site_id)s AND visitor_id = ANY(%(ids)s)
ORDER BY visitor_id FOR UPDATE
"""

_WRITTEN = {
    "visitor_no": "int",
    "first_seen_at": "timestamptz",
    "first_event_id": "uuid",
    "first_session_id": "text",
    "first_touch": "jsonb",
    "last_seen_at": "timestamptz",
    "last_event_id": "uuid",
    "last_touch": "jsonb",
    "identified_at": "timestamptz",
    "identified_event_id": "uuid",
    "user_id": "text",
    "traits": "jsonb",
}
"""The columns that a chunk writes, in the order of _row, and their types."""
_NAMES = ", ".join(_WRITTEN)

# Adds visitors.
_COPY = f"COPY visitors (site_id, visitor_id, {_NAMES}) FROM STDIN"

# Updates stored visitors. A touch that is NULL has not changed. A visitor without a new IDENTIFY keeps its user_id and
# traits. Arrays are sent in binary form and JSON as texts in them: escaping it again would cost more than all the rest.
_UPDATE = f"""
UPDATE visitors v
SET first_seen_at = u.first_seen_at, first_event_id = u.first_event_id::uuid, first_session_id = u.first_session_id,
    first_touch = coalesce(u.first_touch::jsonb, v.first_touch),
    last_seen_at = u.last_seen_at, last_event_id = u.last_event_id::uuid,
    last_touch = coalesce(u.last_touch::jsonb, v.last_touch),
    identified_at = coalesce(u.identified_at, v.identified_at),
    identified_event_id = coalesce(u.identified_event_id::uuid, v.identified_event_id),
    user_id = CASE WHEN u.identified_at IS NULL THEN v.user_id ELSE u.user_id END,
    traits = CASE WHEN u.identified_at IS NULL THEN v.traits ELSE u.traits::jsonb END
FROM {unnest(_WRITTEN)} AS u ({_NAMES})
WHERE v.site_id = %(site_id)s AND v.visitor_no = u.visitor_no
"""

_TOUCH = ("path", "referrer", *CONTEXT_COLUMNS)
"""The fields of an event that a touch keeps."""
_touch_of = attrgetter(*_TOUCH)
_quoted = json.encoder.encode_basestring
"""Encodes a JSON string. A touch is joined from these, because an encoder costs more to set up than its few texts."""


class First(NamedTuple):
    """A visitor's first event, the smallest in this order. Its time and stream identify the first session too."""

    seen_at: datetime
    event_id: str
    session_id: str


class Seen(NamedTuple):
    """The events of a chunk that decide a visitor's row."""

    first: Event
    last: Event
    """The earliest and the latest event. Of events at one instant, the one with the smaller id is earlier."""
    identify: Event | None
    """The latest IDENTIFY event."""


class Visitor(NamedTuple):
    """A visitor after the chunk."""

    number: int
    first: First
    first_before: First | None
    """The visitor's first event before the chunk; None for a new visitor."""


class VisitorChanges(NamedTuple):
    """The visitors of a chunk, and what is to be written of them."""

    visitors: dict[str, Visitor]
    """By visitor id."""
    added: list[tuple[Any, ...]]
    """The rows of new visitors, by visitor id: the columns of _COPY after the site."""
    updated: list[tuple[Any, ...]]
    """The rows of stored visitors: the columns of _WRITTEN."""


class _Stored(NamedTuple):
    visitor_no: int
    first: First
    last: tuple[datetime, str]
    identified: tuple[datetime, str] | None


class _Changed(NamedTuple):
    """A visitor after the chunk. Fields that are None stay as they are stored."""

    first: First
    first_touch: Event | None
    last: tuple[datetime, str]
    last_touch: Event | None
    identify: Event | None


def seen_in(events: list[Event]) -> dict[str, Seen]:
    """The deciding events of each visitor. `events` must be sorted by time and event id."""
    firsts = {event.visitor_id: event for event in reversed(events)}
    lasts = {event.visitor_id: event for event in events}
    identifies = {event.visitor_id: event for event in events if event.type == EventType.IDENTIFY}
    return {id_: Seen(first, lasts[id_], identifies.get(id_)) for id_, first in firsts.items()}


def visitor_changes(site_id: int, seen: dict[str, Seen]) -> Reads[VisitorChanges]:
    """Locks the stored visitors among those of a chunk, and gives the others numbers."""
    stored = {
        id_: _Stored(no, First(seen_at, event_id, session_id), (last_at, last_id or ""), (at, by) if at else None)
        for id_, no, seen_at, event_id, session_id, last_at, last_id, at, by in (
            yield Statement(_LOCK, {"site_id": site_id, "ids": list(seen)})
        )
    }
    new = sorted(seen.keys() - stored.keys())
    given = dict(zip(new, (yield NewNumbers(len(new))), strict=True)) if new else {}
    visitors = {id_: Visitor(number, _first(seen[id_].first), None) for id_, number in given.items()}
    merged = {id_: _merge(row, seen[id_]) for id_, row in stored.items()}
    for id_, row in stored.items():
        visitors[id_] = Visitor(row.visitor_no, merged[id_].first, row.first)
    return VisitorChanges(
        visitors,
        [(id_, *_row(number, _merge(None, seen[id_]))) for id_, number in given.items()],
        [_row(row.visitor_no, merged[id_]) for id_, row in stored.items()],
    )


def add_visitors(connection: psycopg.Connection[Any], changes: Mapping[int, VisitorChanges]) -> None:
    """Adds the new visitors of some sites (by number, ascending) in the caller's transaction.

    Raises UniqueViolation if another transaction has added one of them since they were read. That happens only if the
    number of partitions was changed. Sites and visitor ids are in order, so that two workers cannot deadlock.
    """
    if any(change.added for change in changes.values()):
        with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
            for site_id, change in changes.items():
                for row in change.added:
                    copy.write_row((site_id, *row))


def updates(site_id: int, changes: VisitorChanges) -> list[Statement]:
    """What updates the stored visitors of a site; their rows are locked."""
    if not changes.updated:
        return []
    columns = dict(zip(_WRITTEN, map(list, zip(*changes.updated, strict=True)), strict=True))
    return [Statement(_UPDATE, {"site_id": site_id, **columns})]


def _merge(stored: _Stored | None, seen: Seen) -> _Changed:
    """The visitor after the chunk. Touches and IDENTIFY are None if the stored ones stay."""
    first, last, identify = _first(seen.first), _place(seen.last), seen.identify
    if stored is None:
        return _Changed(first, seen.first, last, seen.last, identify)
    if identify is not None and stored.identified is not None and _place(identify) <= stored.identified:
        identify = None
    return _Changed(
        min(stored.first, first),
        seen.first if first < stored.first else None,
        max(stored.last, last),
        seen.last if last > stored.last else None,
        identify,
    )


def _first(event: Event) -> First:
    return First(event.occurred_at, event.event_id, event.session_id)


def _place(event: Event) -> tuple[datetime, str]:
    return event.occurred_at, event.event_id


def _touch(event: Event | None) -> str | None:
    if event is None:
        return None
    texts = zip(_TOUCH, _touch_of(event), strict=True)
    return "{" + ",".join([f'"{name}":{_quoted(value)}' for name, value in texts if value is not None]) + "}"


def _row(number: int, changed: _Changed) -> tuple[Any, ...]:
    """The values of the columns of _WRITTEN."""
    identify = changed.identify
    return (
        number,
        *changed.first,
        _touch(changed.first_touch),
        changed.last[0],
        changed.last[1] or None,
        _touch(changed.last_touch),
        *((identify.occurred_at, identify.event_id, identify.user_id) if identify is not None else (None,) * 3),
        json.dumps(identify.traits, ensure_ascii=False) if identify is not None and identify.traits else None,
    )
