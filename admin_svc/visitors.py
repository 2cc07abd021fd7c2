"""The visitors of a page of events: read and locked, given numbers, brought up to date."""

import json
from datetime import datetime
from typing import Any, NamedTuple

import psycopg

from admin_svc.sessionize import Event
from admin_svc.visitor_numbers import VisitorNumbers
from common.dimensions import EventType

# What is read of a visitor before a page changes it.
_LOCKED = (
    "visitor_id, visitor_no, first_seen_at, first_event_id::text, first_session_id, last_seen_at, "
    "last_event_id::text, identified_at, identified_event_id::text"
)

# The visitors that are known, locked in one order so that two lanes' workers never wait in a circle.
_LOCK = f"""
SELECT {_LOCKED} FROM visitors WHERE site_id = %(site_id)s AND visitor_id = ANY(%(ids)s)
ORDER BY visitor_id FOR UPDATE
"""

_ARRAYS = {
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
"""The columns a page writes, and their types."""
_NAMES = ", ".join(_ARRAYS)
_UNNEST = f"unnest({', '.join(f'%({name})s::{kind}[]' for name, kind in _ARRAYS.items())})"

# Adds the visitors that are new; answers those that another lane did not add first.
_INSERT = f"""
INSERT INTO visitors (site_id, visitor_id, {_NAMES})
SELECT %(site_id)s, v.*
FROM unnest(%(visitor_id)s::text[], {_UNNEST.removeprefix("unnest(")} AS v (visitor_id, {_NAMES})
ORDER BY v.visitor_id
ON CONFLICT (site_id, visitor_id) DO NOTHING
RETURNING visitor_id
"""

# Brings known visitors up to date. A touch that is NULL has not changed; who was not identified anew keeps user_id
# and traits.
_UPDATE = f"""
UPDATE visitors v
SET first_seen_at = u.first_seen_at, first_event_id = u.first_event_id, first_session_id = u.first_session_id,
    first_touch = coalesce(u.first_touch, v.first_touch),
    last_seen_at = u.last_seen_at, last_event_id = u.last_event_id, last_touch = coalesce(u.last_touch, v.last_touch),
    identified_at = coalesce(u.identified_at, v.identified_at),
    identified_event_id = coalesce(u.identified_event_id, v.identified_event_id),
    user_id = CASE WHEN u.identified_at IS NULL THEN v.user_id ELSE u.user_id END,
    traits = CASE WHEN u.identified_at IS NULL THEN v.traits ELSE u.traits END
FROM {_UNNEST} AS u ({_NAMES})
WHERE v.site_id = %(site_id)s AND v.visitor_no = u.visitor_no
"""

_TOUCH = (
    "path",
    "referrer",
    "source",
    "device",
    "browser",
    "os",
    "country",
    "utm_source",
    "utm_medium",
    "utm_campaign",
)
"""What a touch keeps of its event."""


class First(NamedTuple):
    """A visitor's first event; the smallest wins. With its start it names the visitor's first session."""

    seen_at: datetime
    event_id: str
    session_id: str


class Seen(NamedTuple):
    """What a page's events say of one visitor."""

    first: Event
    last: Event
    """The earliest and the latest; of one instant the one with the smaller id is the earlier."""
    identify: Event | None
    """The latest IDENTIFY."""


class Visitor(NamedTuple):
    """A visitor after the page."""

    number: int
    first: First
    first_before: First | None
    """None when the page brought the visitor."""


class _Stored(NamedTuple):
    visitor_no: int
    first: First
    last: tuple[datetime, str]
    identified: tuple[datetime, str] | None


class _Changed(NamedTuple):
    """A visitor after the page; what is None stays as it is stored."""

    first: First
    first_touch: Event | None
    last: tuple[datetime, str]
    last_touch: Event | None
    identify: Event | None


def seen_in(events: list[Event]) -> dict[str, Seen]:
    """What the events say of each of their visitors."""
    found: dict[str, Seen] = {}
    for event in events:
        identify = event if event.type == EventType.IDENTIFY else None
        before = found.get(event.visitor_id)
        if before is None:
            found[event.visitor_id] = Seen(event, event, identify)
        else:
            first, last, identified = before
            if identify is None or (identified is not None and _place(identified) > _place(identify)):
                identify = identified
            found[event.visitor_id] = Seen(
                event if _first(event) < _first(first) else first,
                event if _place(event) > _place(last) else last,
                identify,
            )
    return found


def upsert_visitors(
    connection: psycopg.Connection[Any], numbers: VisitorNumbers, site_id: int, seen: dict[str, Seen]
) -> dict[str, Visitor]:
    """Locks, adds and updates the visitors that were seen, in the caller's transaction; by visitor id."""
    stored = _lock(connection, site_id, list(seen))
    new = sorted(seen.keys() - stored.keys())
    visitors: dict[str, Visitor] = {}
    if new:
        given = dict(zip(new, numbers.take(site_id, len(new)), strict=True))
        rows = _arrays([(given[id_], _merge(None, seen[id_])) for id_ in new])
        added = {row[0] for row in connection.execute(_INSERT, {"site_id": site_id, "visitor_id": new, **rows})}
        visitors = {id_: Visitor(given[id_], _first(seen[id_].first), None) for id_ in added}
        if len(added) < len(new):
            # Another lane brought them meanwhile, which happens only while the number of lanes changes.
            stored |= _lock(connection, site_id, [id_ for id_ in new if id_ not in added])
    if stored:
        merged = {id_: _merge(row, seen[id_]) for id_, row in stored.items()}
        rows = _arrays([(row.visitor_no, merged[id_]) for id_, row in stored.items()])
        connection.execute(_UPDATE, {"site_id": site_id, **rows})
        for id_, row in stored.items():
            visitors[id_] = Visitor(row.visitor_no, merged[id_].first, row.first)
    return visitors


def _lock(connection: psycopg.Connection[Any], site_id: int, ids: list[str]) -> dict[str, _Stored]:
    return {
        id_: _Stored(no, First(seen_at, event_id, session_id), (last_at, last_id or ""), (at, by) if at else None)
        for id_, no, seen_at, event_id, session_id, last_at, last_id, at, by in connection.execute(
            _LOCK, {"site_id": site_id, "ids": ids}
        )
    }


def _merge(stored: _Stored | None, seen: Seen) -> _Changed:
    """The visitor as it is after the page; what is stored already stays out."""
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
    return event and _json({name: value for name in _TOUCH if (value := getattr(event, name)) is not None})


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False)


def _arrays(rows: list[tuple[int, _Changed]]) -> dict[str, list[Any]]:
    """The values of _ARRAYS, of each visitor number and what became of it."""
    changed = [row[1] for row in rows]
    identifies = [one.identify for one in changed]
    return {
        "visitor_no": [row[0] for row in rows],
        "first_seen_at": [one.first.seen_at for one in changed],
        "first_event_id": [one.first.event_id for one in changed],
        "first_session_id": [one.first.session_id for one in changed],
        "first_touch": [_touch(one.first_touch) for one in changed],
        "last_seen_at": [one.last[0] for one in changed],
        "last_event_id": [one.last[1] or None for one in changed],
        "last_touch": [_touch(one.last_touch) for one in changed],
        "identified_at": [event and event.occurred_at for event in identifies],
        "identified_event_id": [event and event.event_id for event in identifies],
        "user_id": [event and event.user_id for event in identifies],
        "traits": [_json(event.traits) if event and event.traits else None for event in identifies],
    }
