"""The visitors of a page of events: read and locked, given numbers, brought up to date."""

import json
from datetime import datetime
from typing import Any, NamedTuple

import psycopg

from admin_svc.sessionize import Event
from admin_svc.visitor_numbers import VisitorNumbers
from common.dimensions import EventType

_COLUMNS = (
    "visitor_id, visitor_no, first_seen_at, first_event_id::text, first_session_id, last_seen_at, "
    "identified_at, identified_event_id::text"
)

# The visitors that are known, locked in one order so that two lanes' workers never wait in a circle.
_LOCK = f"""
SELECT {_COLUMNS} FROM visitors WHERE site_id = %(site_id)s AND visitor_id = ANY(%(ids)s)
ORDER BY visitor_id FOR UPDATE
"""

# Adds the visitors that are new; answers those that another lane did not add first.
_INSERT = """
INSERT INTO visitors (site_id, visitor_id, visitor_no, first_seen_at, first_event_id, first_session_id, last_seen_at,
                      identified_at, identified_event_id, user_id, traits)
SELECT %(site_id)s, visitor_id, visitor_no, first_seen_at, first_event_id, first_session_id, last_seen_at,
       identified_at, identified_event_id, user_id, traits::jsonb
FROM unnest(%(visitor_ids)s::text[], %(visitor_nos)s::int[], %(first_seen_ats)s::timestamptz[],
            %(first_event_ids)s::uuid[], %(first_session_ids)s::text[], %(last_seen_ats)s::timestamptz[],
            %(identified_ats)s::timestamptz[], %(identified_event_ids)s::uuid[], %(user_ids)s::text[],
            %(traits)s::text[])
  AS v (visitor_id, visitor_no, first_seen_at, first_event_id, first_session_id, last_seen_at,
        identified_at, identified_event_id, user_id, traits)
ORDER BY visitor_id
ON CONFLICT (site_id, visitor_id) DO NOTHING
RETURNING visitor_id
"""

# Brings known visitors up to date; who was not identified anew keeps user_id and traits.
_UPDATE = """
UPDATE visitors v
SET first_seen_at = u.first_seen_at, first_event_id = u.first_event_id, first_session_id = u.first_session_id,
    last_seen_at = u.last_seen_at,
    identified_at = coalesce(u.identified_at, v.identified_at),
    identified_event_id = coalesce(u.identified_event_id, v.identified_event_id),
    user_id = CASE WHEN u.identified_at IS NULL THEN v.user_id ELSE u.user_id END,
    traits = CASE WHEN u.identified_at IS NULL THEN v.traits ELSE u.traits::jsonb END
FROM unnest(%(visitor_nos)s::int[], %(first_seen_ats)s::timestamptz[],
            %(first_event_ids)s::uuid[], %(first_session_ids)s::text[], %(last_seen_ats)s::timestamptz[],
            %(identified_ats)s::timestamptz[], %(identified_event_ids)s::uuid[], %(user_ids)s::text[],
            %(traits)s::text[])
  AS u (visitor_no, first_seen_at, first_event_id, first_session_id, last_seen_at,
        identified_at, identified_event_id, user_id, traits)
WHERE v.site_id = %(site_id)s AND v.visitor_no = u.visitor_no
"""


class First(NamedTuple):
    """A visitor's first event; the smallest wins. With its start it names the visitor's first session."""

    seen_at: datetime
    event_id: str
    session_id: str


class Seen(NamedTuple):
    """What a page's events say of one visitor."""

    first: First
    last_seen_at: datetime
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
    last_seen_at: datetime
    identified: tuple[datetime, str] | None


def seen_in(events: list[Event]) -> dict[str, Seen]:
    """What the events say of each of their visitors."""
    found: dict[str, Seen] = {}
    for event in events:
        first = First(event.occurred_at, event.event_id, event.session_id)
        identify = event if event.type == EventType.IDENTIFY else None
        before = found.get(event.visitor_id)
        if before is None:
            found[event.visitor_id] = Seen(first, event.occurred_at, identify)
        else:
            if identify is None or (
                before.identify is not None and _identified(before.identify) > _identified(identify)
            ):
                identify = before.identify
            found[event.visitor_id] = Seen(
                min(before.first, first), max(before.last_seen_at, event.occurred_at), identify
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
        rows = {
            "visitor_ids": new,
            "visitor_nos": list(given.values()),
            **_arrays([seen[id_] for id_ in new]),
        }
        added = {row[0] for row in connection.execute(_INSERT, {"site_id": site_id, **rows})}
        visitors = {id_: Visitor(given[id_], seen[id_].first, None) for id_ in added}
        if len(added) < len(new):
            # Another lane brought them meanwhile, which happens only while the number of lanes changes.
            stored |= _lock(connection, site_id, [id_ for id_ in new if id_ not in added])
    if stored:
        merged = {id_: _merge(row, seen[id_]) for id_, row in stored.items()}
        rows = {"visitor_nos": [row.visitor_no for row in stored.values()], **_arrays(list(merged.values()))}
        connection.execute(_UPDATE, {"site_id": site_id, **rows})
        for id_, row in stored.items():
            visitors[id_] = Visitor(row.visitor_no, merged[id_].first, row.first)
    return visitors


def _lock(connection: psycopg.Connection[Any], site_id: int, ids: list[str]) -> dict[str, _Stored]:
    return {
        id_: _Stored(no, First(seen_at, event_id, session_id), last, (at, by) if at is not None else None)
        for id_, no, seen_at, event_id, session_id, last, at, by in connection.execute(
            _LOCK, {"site_id": site_id, "ids": ids}
        )
    }


def _merge(stored: _Stored, seen: Seen) -> Seen:
    """The visitor as it is after the page; `identify` only if it is later than the stored one."""
    identify = seen.identify
    if identify is not None and stored.identified is not None and _identified(identify) <= stored.identified:
        identify = None
    return Seen(min(stored.first, seen.first), max(stored.last_seen_at, seen.last_seen_at), identify)


def _identified(event: Event) -> tuple[datetime, str]:
    return event.occurred_at, event.event_id


def _arrays(seen: list[Seen]) -> dict[str, list[Any]]:
    identifies = [one.identify for one in seen]
    return {
        "first_seen_ats": [one.first.seen_at for one in seen],
        "first_event_ids": [one.first.event_id for one in seen],
        "first_session_ids": [one.first.session_id for one in seen],
        "last_seen_ats": [one.last_seen_at for one in seen],
        "identified_ats": [event and event.occurred_at for event in identifies],
        "identified_event_ids": [event and event.event_id for event in identifies],
        "user_ids": [event and event.user_id for event in identifies],
        "traits": [event and event.traits and json.dumps(event.traits, ensure_ascii=False) for event in identifies],
    }
