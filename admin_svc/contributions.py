"""What an event and a session add to the rollups: two pure functions, and the sum of their results.

When a session changes, the worker adds contributions(new) and subtracts contributions(old). That is all
it takes for late events, merged sessions and moved starts to leave the same numbers as if everything had
come in order.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from admin_svc.sessionize import Event, Session
from common.dimensions import (
    ENTRY_PAGE,
    EVENT_DIMENSIONS,
    EXIT_PAGE,
    KEYED_EVENT_DIMENSIONS,
    OVERVIEW,
    EventType,
    is_counted,
)
from common.timestamps import duration_micros
from common.visitor_sets import encode_counts, encode_set

_EVENT_KEYS = tuple((dimension.number, dimension.key) for dimension in EVENT_DIMENSIONS)
_SESSION_KEYS = tuple(dimension.number for dimension in KEYED_EVENT_DIMENSIONS)

BucketKey = tuple[int, datetime, str]
"""Dimension, start of the hour, key."""


class Contribution(NamedTuple):
    """What is added under one key. `visitor` tells whether the visitor counts under it too."""

    where: BucketKey
    events: int
    pageviews: int
    sessions: int
    bounces: int
    duration_us: int
    new_visitors: int
    visitor: bool


def hour_of(instant: datetime) -> datetime:
    """The start of the instant's hour, UTC."""
    return instant.replace(minute=0, second=0, microsecond=0)


def event_contributions(event: Event) -> list[Contribution]:
    """An event counts under each of its keys, in the hour it occurred."""
    hour = hour_of(event.occurred_at)
    pageview = 1 if event.type == EventType.PAGEVIEW else 0
    found: list[Contribution] = []
    for number, key_of in _EVENT_KEYS:
        key = key_of(event)
        if key is not None:
            found.append(Contribution((number, hour, key), 1, pageview, 0, 0, 0, 0, True))
    return found


def session_contributions(session: Session) -> list[Contribution]:
    """A session counts under the keys of its first event and under its entry and exit page, in the hour it
    started. Under the pages its events count with it, for there they are asked for as a whole."""
    hour = hour_of(session.started_at)
    bounce = 1 if session.pageviews <= 1 else 0
    duration = duration_micros(session.ended_at - session.started_at)
    new = 1 if session.new_visitor else 0
    found = [Contribution((OVERVIEW.number, hour, ""), 0, 0, 1, bounce, duration, new, False)]
    for number, key in zip(_SESSION_KEYS, session.keys, strict=True):
        if key is not None:
            found.append(Contribution((number, hour, key), 0, 0, 1, bounce, duration, new, False))
    for number, page in ((ENTRY_PAGE.number, session.entry_page), (EXIT_PAGE.number, session.exit_page)):
        if page is not None:
            found.append(
                Contribution((number, hour, page), session.events, session.pageviews, 1, bounce, duration, new, True)
            )
    return found


class Deltas:
    """The sum of many contributions, by dimension, hour and key."""

    def __init__(self) -> None:
        # events, pageviews, sessions, bounces, duration in µs, new visitors; and counts by visitor number
        self._sums: dict[BucketKey, tuple[list[int], dict[int, int]]] = {}

    def add(self, contributions: list[Contribution], visitor_no: int, sign: int = 1) -> None:
        """Adds (sign 1) or takes back (sign -1) what one visitor's event or session contributes."""
        sums = self._sums
        for where, events, pageviews, sessions, bounces, duration_us, new_visitors, visitor in contributions:
            entry = sums.get(where)
            if entry is None:
                entry = sums[where] = ([0, 0, 0, 0, 0, 0], {})
            counters, visitors = entry
            counters[0] += sign * events
            counters[1] += sign * pageviews
            if sessions:
                counters[2] += sign * sessions
                counters[3] += sign * bounces
                counters[4] += sign * duration_us
                counters[5] += sign * new_visitors
            if visitor:
                visitors[visitor_no] = visitors.get(visitor_no, 0) + sign

    def rows(self) -> Iterator[tuple[BucketKey, list[int], bytes | None]]:
        """What is left to append; sums that came to nothing are left out."""
        for where, (counters, visitors) in self._sums.items():
            encoded = encode_counts(visitors) if is_counted(where[0]) else encode_set(visitors)
            if any(counters) or (encoded and visitors):
                yield where, counters, encoded if visitors else None
