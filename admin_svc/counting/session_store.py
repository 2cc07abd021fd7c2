"""Stored sessions: those around a chunk of events are read, and changed ones are replaced."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import psycopg

from admin_svc.counting.array_parameters import unnest
from admin_svc.counting.reads import Reads, Statement
from admin_svc.counting.sessionize import Session
from common.dimensions import KEYED_EVENT_DIMENSIONS

_KEY_COLUMNS = tuple(dimension.column for dimension in KEYED_EVENT_DIMENSIONS)
_COLUMNS = (
    "visitor_no",
    "session_id",
    "started_at",
    "first_event_id",
    "ended_at",
    "events",
    "pageviews",
    *_KEY_COLUMNS,
    "entry_at",
    "entry_event_id",
    "entry_page",
    "exit_at",
    "exit_event_id",
    "exit_page",
    "new_visitor",
)
_TYPES = {
    "visitor_no": "int4",
    "session_id": "text",
    "started_at": "timestamptz",
    "first_event_id": "uuid",
    "ended_at": "timestamptz",
    "events": "int4",
    "pageviews": "int4",
    "entry_at": "timestamptz",
    "entry_event_id": "uuid",
    "exit_at": "timestamptz",
    "exit_event_id": "uuid",
    "new_visitor": "bool",
}
_SELECT = ", ".join(f"s.{column}::text" if _TYPES.get(column) == "uuid" else f"s.{column}" for column in _COLUMNS)

# The sessions of each stream that its new events may change: those that start inside the window, and the last one that
# starts before it, because it may reach into the window.
_AROUND = f"""
SELECT {_SELECT}
FROM unnest(%(visitor_nos)b::int[], %(session_ids)b::text[], %(froms)b::timestamptz[], %(tos)b::timestamptz[])
  AS w (visitor_no, session_id, window_from, window_to)
CROSS JOIN LATERAL (
    SELECT max(p.started_at) AS started_at FROM sessions p
    WHERE p.site_id = %(site_id)s AND p.visitor_no = w.visitor_no AND p.session_id = w.session_id
      AND p.started_at <= w.window_from
) AS last_before
JOIN sessions s ON s.site_id = %(site_id)s AND s.visitor_no = w.visitor_no AND s.session_id = w.session_id
  AND s.started_at >= coalesce(last_before.started_at, w.window_from) AND s.started_at <= w.window_to
"""

# Sessions by visitor number, session id and start.
_BY_IDENTITY = f"""
SELECT {_SELECT}
FROM unnest(%(visitor_nos)b::int[], %(session_ids)b::text[], %(starts)b::timestamptz[])
  AS i (visitor_no, session_id, started_at)
JOIN sessions s ON s.site_id = %(site_id)s AND s.visitor_no = i.visitor_no AND s.session_id = i.session_id
  AND s.started_at = i.started_at
"""

# Deletes sessions that were merged into others or have another start now.
_DELETE = """
DELETE FROM sessions s
USING unnest(%(visitor_nos)b::int[], %(session_ids)b::text[], %(starts)b::timestamptz[])
  AS i (visitor_no, session_id, started_at)
WHERE s.site_id = %(site_id)s AND s.visitor_no = i.visitor_no AND s.session_id = i.session_id
  AND s.started_at = i.started_at
"""

_IDENTITY = ("visitor_no", "session_id", "started_at")
_CHANGING = tuple(column for column in _COLUMNS if column not in _IDENTITY)

# Updates sessions whose start has not changed.
_UPDATE = f"""
UPDATE sessions s
SET {", ".join(f"{column} = u.{column}{'::uuid' if _TYPES.get(column) == 'uuid' else ''}" for column in _CHANGING)}
FROM {unnest({column: _TYPES.get(column, "text") for column in _COLUMNS})} AS u ({", ".join(_COLUMNS)})
WHERE s.site_id = %(site_id)s AND s.visitor_no = u.visitor_no AND s.session_id = u.session_id
  AND s.started_at = u.started_at
"""

# Adds sessions.
_COPY = f"COPY sessions (site_id, {', '.join(_COLUMNS)}) FROM STDIN"

_FIRST_KEY = _COLUMNS.index(_KEY_COLUMNS[0])
_AFTER_KEYS = _FIRST_KEY + len(_KEY_COLUMNS)

Connection = psycopg.Connection[Any]
Identity = tuple[int, str, datetime]
Changes = tuple[dict[Identity, Session], dict[Identity, Session]]
"""Sessions before and after, by identity; unchanged ones are in neither."""


class Window(NamedTuple):
    """The time span of a stream in which sessions may change."""

    visitor_no: int
    session_id: str
    start: datetime
    end: datetime


def sessions_around(site_id: int, windows: Sequence[Window]) -> Reads[list[Session]]:
    """The sessions that start in the windows, and for each window the last session of its stream before it."""
    visitor_nos, session_ids, froms, tos = map(list, zip(*windows, strict=True))
    arrays = {"visitor_nos": visitor_nos, "session_ids": session_ids, "froms": froms, "tos": tos}
    return [_session(row) for row in (yield Statement(_AROUND, {"site_id": site_id, **arrays}))]


def sessions_named(site_id: int, identities: Iterable[Identity]) -> Reads[list[Session]]:
    """The sessions with these identities, as far as they exist."""
    return [_session(row) for row in (yield Statement(_BY_IDENTITY, _identity_arrays(site_id, identities)))]


def updates(site_id: int, changes: Changes) -> list[Statement]:
    """What deletes and updates the stored sessions of a site, so that its new ones can be added."""
    before, after = changes
    statements = []
    gone = before.keys() - after.keys()
    if gone:
        statements.append(Statement(_DELETE, _identity_arrays(site_id, gone)))
    changed = [_row(after[identity]) for identity in after.keys() & before.keys()]
    if changed:
        columns = zip(*changed, strict=True)
        arrays = {name: [*values] for name, values in zip(_COLUMNS, columns, strict=True)}
        statements.append(Statement(_UPDATE, {"site_id": site_id, **arrays}))
    return statements


def add_sessions(connection: Connection, changes: Mapping[int, Changes]) -> None:
    """Adds the new sessions of some sites (by number), in the caller's transaction."""
    added = [(site_id, after[one]) for site_id, (before, after) in changes.items() for one in after.keys() - before]
    if added:
        with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
            for site_id, session in added:
                copy.write_row((site_id, *_row(session)))


def _session(row: tuple[Any, ...]) -> Session:
    return Session._make((*row[:_FIRST_KEY], row[_FIRST_KEY:_AFTER_KEYS], *row[_AFTER_KEYS:]))


def _row(session: Session) -> tuple[Any, ...]:
    keys_at = Session._fields.index("keys")
    return (*session[:keys_at], *session.keys, *session[keys_at + 1 :])


def _identity_arrays(site_id: int, identities: Iterable[Identity]) -> dict[str, Any]:
    listed = list(identities)
    return {
        "site_id": site_id,
        "visitor_nos": [identity[0] for identity in listed],
        "session_ids": [identity[1] for identity in listed],
        "starts": [identity[2] for identity in listed],
    }
