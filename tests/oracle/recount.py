"""Every answer of Footfall, counted again from the raw events, one by one.

This is the measure the product is held to, so it shares no code with it: no rollups, no deltas, no
visitor numbers, only loops over a list. Plain and obviously right comes before fast.

Times are whole microseconds since 1970 UTC, durations whole microseconds, ranges [start, end).
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from tests.oracle.answers import Metrics, SessionRow, VisitorRow
from tests.oracle.raw_events import (
    CONTEXT_FIELDS,
    SESSION_DIMENSIONS,
    TOUCH_FIELDS,
    RawEvent,
    Scalar,
    event_key,
    json_text,
    key_of_event,
)


@dataclass(frozen=True)
class Session:
    """A run of one visitor's events under one session id with no gap longer than the timeout."""

    events: tuple[RawEvent, ...]
    """Oldest first, never empty."""
    new_visitor: bool
    """Whether it holds the visitor's earliest event of all."""

    @property
    def first(self) -> RawEvent:
        return self.events[0]

    @property
    def start(self) -> int:
        return self.events[0].occurred_at

    @property
    def end(self) -> int:
        return self.events[-1].occurred_at

    @cached_property
    def pageviews(self) -> int:
        return sum(event.type == "pageview" for event in self.events)

    @property
    def bounce(self) -> bool:
        return self.pageviews <= 1

    @cached_property
    def entry_page(self) -> str:
        return next((event.path for event in self.events if event.path), "")

    @cached_property
    def exit_page(self) -> str:
        return next((event.path for event in reversed(self.events) if event.path), "")


def count(events: Sequence[RawEvent], sessions: Sequence[Session]) -> Metrics:
    """The metrics of some events and of some sessions."""
    bounces = sum(session.bounce for session in sessions)
    session_time = sum(session.end - session.start for session in sessions)
    return Metrics(
        events=len(events),
        pageviews=sum(event.type == "pageview" for event in events),
        sessions=len(sessions),
        visitors=len({event.visitor_id for event in events}),
        new_visitors=sum(session.new_visitor for session in sessions),
        bounce_rate=bounces / len(sessions) if sessions else 0.0,
        average_session_duration=session_time / len(sessions) if sessions else 0.0,
    )


def boundaries(start: int, end: int, length: int) -> list[int]:
    """Where [start, end) is cut into buckets of the UTC hour or day, its own two ends included."""
    first_cut = (start // length + 1) * length
    return [start, *range(first_cut, end, length), end]


def split_into_sessions(events: Iterable[RawEvent], session_timeout: int) -> list[Session]:
    """Every session of the events, in no particular order."""
    ordered = sorted(events, key=lambda event: event.order)
    streams: dict[tuple[str, str], list[list[RawEvent]]] = {}
    first_of_visitor: dict[str, RawEvent] = {}
    for event in ordered:
        first_of_visitor.setdefault(event.visitor_id, event)
        runs = streams.setdefault((event.visitor_id, event.session_id), [])
        if runs and event.occurred_at - runs[-1][-1].occurred_at <= session_timeout:
            runs[-1].append(event)
        else:
            runs.append([event])
    return [
        Session(tuple(run), new_visitor=first_of_visitor[visitor_id] is run[0])
        for (visitor_id, _), runs in streams.items()
        for run in runs
    ]


class Recount:
    """The answers over one site's events."""

    def __init__(self, events: Iterable[RawEvent], session_timeout: int) -> None:
        self.all_events = sorted(events, key=lambda event: event.order)
        self.all_sessions = split_into_sessions(self.all_events, session_timeout)
        self.users = {event.visitor_id: event.user_id for event in self.all_events if event.type == "identify"}
        """The user each visitor's latest IDENTIFY with a user names."""

    def events(self, start: int, end: int) -> list[RawEvent]:
        """Events that occurred in the range, oldest first."""
        return [event for event in self.all_events if start <= event.occurred_at < end]

    def sessions(self, start: int, end: int) -> list[Session]:
        """Sessions that started in the range, newest first."""
        found = [session for session in self.all_sessions if start <= session.start < end]
        return sorted(found, key=lambda session: session.first.order, reverse=True)

    def overview(self, start: int, end: int) -> Metrics:
        return count(self.events(start, end), self.sessions(start, end))

    def buckets(self, cuts: Sequence[int]) -> list[tuple[int, Metrics]]:
        """One bucket between every two neighbouring cuts, under its first instant."""
        return [(start, self.overview(start, end)) for start, end in pairwise(cuts)]

    def timeseries(self, start: int, end: int, length: int) -> list[tuple[int, Metrics]]:
        """The UTC hours or days of the range, the first and last clipped to it."""
        return self.buckets(boundaries(start, end, length))

    def top(self, dimension: str, start: int, end: int, order_by: str = "events") -> list[tuple[str, Metrics]]:
        """Every key of a dimension, largest first, ties by the key's bytes."""
        events: dict[str, list[RawEvent]] = {}
        sessions: dict[str, list[Session]] = {}
        for session in self.sessions(start, end):
            if dimension in SESSION_DIMENSIONS:
                key: str = getattr(session, dimension)
                events.setdefault(key, []).extend(session.events)
            else:
                key = key_of_event(dimension, session.first)
            sessions.setdefault(key, []).append(session)
        if dimension not in SESSION_DIMENSIONS:
            for event in self.events(start, end):
                events.setdefault(key_of_event(dimension, event), []).append(event)
        rows = [(key, count(events[key], sessions.get(key, []))) for key in events if key]
        return sorted(rows, key=lambda row: (-getattr(row[1], order_by), row[0].encode()))

    def breakdown(self, event_name: str, property_key: str, start: int, end: int) -> list[tuple[Scalar, int, int]]:
        """(value, events, visitors) of one property of one event, most frequent first."""
        found: dict[str, list[RawEvent]] = {}
        for event in self.events(start, end):
            if event_key(event) == event_name and property_key in event.properties:
                found.setdefault(json_text(event.properties[property_key]), []).append(event)
        ranked = sorted(found.items(), key=lambda item: (-len(item[1]), item[0].encode()))
        return [(json.loads(text), len(events), len({event.visitor_id for event in events})) for text, events in ranked]

    def session_rows(self, start: int, end: int) -> list[SessionRow]:
        """The sessions that started in the range as a list shows them, newest first."""
        return [
            SessionRow(
                session_id=session.first.session_id,
                visitor_id=session.first.visitor_id,
                user_id=self.users.get(session.first.visitor_id, ""),
                start=session.start,
                end=session.end,
                events=len(session.events),
                pageviews=session.pageviews,
                bounce=session.bounce,
                new_visitor=session.new_visitor,
                entry_page=session.entry_page,
                exit_page=session.exit_page,
                referrer=session.first.referrer,
                context=tuple(getattr(session.first, name) for name in CONTEXT_FIELDS),
            )
            for session in self.sessions(start, end)
        ]

    def visitor_rows(self, start: int, end: int) -> list[VisitorRow]:
        """The visitors who were first seen in the range, in no particular order."""
        events_of: dict[str, list[RawEvent]] = {}
        for event in self.all_events:
            events_of.setdefault(event.visitor_id, []).append(event)
        return [
            VisitorRow(
                visitor_id=visitor_id,
                user_id=self.users.get(visitor_id, ""),
                traits=next((dict(one.properties) for one in reversed(events) if one.type == "identify"), {}),
                first_seen=events[0].occurred_at,
                last_seen=events[-1].occurred_at,
                first_touch=tuple(getattr(events[0], name) for name in TOUCH_FIELDS),
                last_touch=tuple(getattr(events[-1], name) for name in TOUCH_FIELDS),
            )
            for visitor_id, events in events_of.items()
            if start <= events[0].occurred_at < end
        ]
