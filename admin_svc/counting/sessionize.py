"""Makes sessions of events that come in any order. Pure.

A stream is the events of one visitor with one session id ("" for events without one). A run of a stream's events is a
session. Two sessions of a stream merge if the gap between them is at most the site's session timeout. Merging is
associative and commutative, so any order and any batching of the same events give the same sessions.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from common.dimensions import KEYED_EVENT_DIMENSIONS, EventType

_KEYS = tuple(dimension.key for dimension in KEYED_EVENT_DIMENSIONS)


class Event(NamedTuple):
    """The fields of an event that aggregation reads, in the order of common/event_columns.py. Absent texts are None; an
    absent session_id is ""."""

    occurred_at: datetime
    event_id: str
    type: int
    visitor_id: str
    session_id: str
    user_id: str | None
    name: str | None
    path: str | None
    referrer: str | None
    source: str | None
    device: str | None
    browser: str | None
    os: str | None
    country: str | None
    utm_source: str | None
    utm_medium: str | None
    utm_campaign: str | None
    traits: dict[str, Any] | None
    """The properties of an IDENTIFY event; None for other events."""


class Session(NamedTuple):
    """A session as it is stored. Of events at one instant, the one with the smaller event_id is earlier: the stored
    UUID, not the id's text as it was sent."""

    visitor_no: int
    session_id: str
    started_at: datetime
    first_event_id: str
    ended_at: datetime
    events: int
    pageviews: int
    keys: tuple[str | None, ...]
    """The keys of the first event, in the order of KEYED_EVENT_DIMENSIONS."""
    entry_at: datetime | None
    entry_event_id: str | None
    entry_page: str | None
    exit_at: datetime | None
    exit_event_id: str | None
    exit_page: str | None
    new_visitor: bool
    """Whether the session holds the visitor's first event ever."""

    @property
    def identity(self) -> tuple[int, str, datetime]:
        """The session's stream (visitor number and session id) and start, which identify it within its site."""
        return self.visitor_no, self.session_id, self.started_at


def runs(events: Sequence[Event], timeout: timedelta) -> list[list[Event]]:
    """The events of one stream, cut where the gap between two is longer than the timeout. They must be sorted by time
    and event id."""
    found: list[list[Event]] = []
    before: datetime | None = None
    for event in events:
        at = event.occurred_at
        if before is None or at - before > timeout:
            found.append([event])
        else:
            found[-1].append(event)
        before = at
    return found


def session_of(visitor_no: int, run: Sequence[Event]) -> Session:
    """The session of one run of events. `new_visitor` is False: the caller sets it from the visitor's row."""
    first, last = run[0], run[-1]
    entry = first if first.path is not None else next((event for event in run if event.path is not None), None)
    exit_ = last if last.path is not None else next((event for event in reversed(run) if event.path is not None), None)
    return Session(
        visitor_no,
        first.session_id,
        first.occurred_at,
        first.event_id,
        last.occurred_at,
        len(run),
        sum([event.type == EventType.PAGEVIEW for event in run]),
        tuple([key(first) for key in _KEYS]),
        *_page(entry),
        *_page(exit_),
        False,
    )


def _page(event: Event | None) -> tuple[datetime | None, str | None, str | None]:
    return (None, None, None) if event is None else (event.occurred_at, event.event_id, event.path)


def marked(session: Session, new_visitor: bool) -> Session:
    """The session with another `new_visitor`, its last field. `_replace` would take three times as long."""
    return Session._make((*session[:-1], new_visitor))


def merge(a: Session, b: Session) -> Session:
    """The session of the events of both. `new_visitor` is False: the caller sets it from the visitor's row."""
    first = a if (a.started_at, a.first_event_id) <= (b.started_at, b.first_event_id) else b
    entry, exit_ = a, a
    if b.entry_at is not None and b.exit_at is not None:
        if a.entry_at is None or (b.entry_at, b.entry_event_id or "") < (a.entry_at, a.entry_event_id or ""):
            entry = b
        if a.exit_at is None or (b.exit_at, b.exit_event_id or "") > (a.exit_at, a.exit_event_id or ""):
            exit_ = b
    return Session(
        first.visitor_no,
        first.session_id,
        first.started_at,
        first.first_event_id,
        max(a.ended_at, b.ended_at),
        a.events + b.events,
        a.pageviews + b.pageviews,
        first.keys,
        entry.entry_at,
        entry.entry_event_id,
        entry.entry_page,
        exit_.exit_at,
        exit_.exit_event_id,
        exit_.exit_page,
        False,
    )


def sessions_of_stream(parts: Iterable[Session], timeout: timedelta) -> list[Session]:
    """Merges the parts of one stream where the gap between two is at most `timeout`. The result is sorted by start."""
    sessions: list[Session] = []
    for part in sorted(parts, key=lambda session: (session.started_at, session.first_event_id)):
        if sessions and part.started_at - sessions[-1].ended_at <= timeout:
            sessions[-1] = merge(sessions[-1], part)
        else:
            sessions.append(part)
    return sessions
