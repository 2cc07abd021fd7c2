"""What events and sessions add to the rollups, and the sum of it. Pure.

When a session changes, the worker adds contributions(new) and subtracts contributions(old). That is all
it takes for late events, merged sessions and moved starts to leave the same numbers as if everything had
come in order.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import compress
from operator import attrgetter

from admin_svc.sessionize import Event, Session
from common.dimensions import (
    ENTRY_PAGE,
    EVENT_DIMENSIONS,
    EXIT_PAGE,
    KEYED_EVENT_DIMENSIONS,
    OVERVIEW,
    EventType,
)
from common.timestamps import duration_micros
from common.visitor_sets import encode_counts, encode_set

_EVENT_KEYS = tuple((dimension.number, dimension.key) for dimension in EVENT_DIMENSIONS)
_OCCURRED_AT = attrgetter("occurred_at")
_SESSION_KEYS = tuple(dimension.number for dimension in KEYED_EVENT_DIMENSIONS)

BucketKey = tuple[int, datetime, str]
"""Dimension, start of the hour, key."""
Contribution = tuple[BucketKey, int, int, int, int, int, int]
"""Where, events, pageviews, sessions, bounces, duration in µs, new visitors."""
_HOUR = timedelta(hours=1)


def hour_of(instant: datetime) -> datetime:
    """The start of the instant's hour, UTC."""
    return instant.replace(minute=0, second=0, microsecond=0)


def session_contributions(session: Session) -> list[Contribution]:
    """A session counts under the keys of its first event and under its entry and exit page, in the hour it
    started. Under the pages its events count with it, for there they are asked for as a whole."""
    hour = hour_of(session.started_at)
    bounce = 1 if session.pageviews <= 1 else 0
    duration = duration_micros(session.ended_at - session.started_at)
    new = 1 if session.new_visitor else 0
    found: list[Contribution] = [((OVERVIEW.number, hour, ""), 0, 0, 1, bounce, duration, new)]
    for number, key in zip(_SESSION_KEYS, session.keys, strict=True):
        if key is not None:
            found.append(((number, hour, key), 0, 0, 1, bounce, duration, new))
    for number, page in ((ENTRY_PAGE.number, session.entry_page), (EXIT_PAGE.number, session.exit_page)):
        if page is not None:
            found.append(((number, hour, page), session.events, session.pageviews, 1, bounce, duration, new))
    return found


class Deltas:
    """The sum of many contributions, by dimension, hour and key."""

    def __init__(self) -> None:
        # Events, pageviews, sessions, bounces, duration in µs, new visitors.
        self._counters: defaultdict[BucketKey, list[int]] = defaultdict(lambda: [0] * 6)
        # Of event dimensions: visitor numbers, with repeats. Of session dimensions: counts by visitor number.
        self._sets: dict[BucketKey, list[int]] = {}
        self._counts: defaultdict[BucketKey, dict[int, int]] = defaultdict(dict)

    def add_events(self, events: Sequence[Event], visitor_nos: Sequence[int]) -> None:
        """Adds events, given by time, and the number of each one's visitor: an event counts under each of its keys,
        in the hour it occurred."""
        start = 0
        while start < len(events):
            hour = hour_of(events[start].occurred_at)
            end = bisect_left(events, hour + _HOUR, lo=start, key=_OCCURRED_AT)
            self._add_hour(hour, events[start:end], visitor_nos[start:end])
            start = end

    def _add_hour(self, hour: datetime, events: Sequence[Event], visitor_nos: Sequence[int]) -> None:
        # A dimension at a time over all events, not an event at a time over all dimensions: most of the work is
        # then done by C loops.
        viewed = [event.type == EventType.PAGEVIEW for event in events]
        only_views = all(viewed)
        for number, key_of in _EVENT_KEYS:
            keys = [*map(key_of, events)]
            visitors_of: defaultdict[str | None, list[int]] = defaultdict(list)
            for key, visitor_no in zip(keys, visitor_nos, strict=True):
                visitors_of[key].append(visitor_no)
            views = None if only_views else Counter(compress(keys, viewed))
            for key, visitors in visitors_of.items():
                if key is None:
                    continue
                where = (number, hour, key)
                counters = self._counters[where]
                counters[0] += len(visitors)
                counters[1] += len(visitors) if views is None else views[key]
                if where in self._sets:
                    self._sets[where] += visitors
                else:
                    self._sets[where] = visitors

    def add_session(self, session: Session, sign: int = 1) -> None:
        """Adds (sign 1) or takes back (sign -1) what a session contributes."""
        for where, events, pageviews, sessions, bounces, duration_us, new_visitors in session_contributions(session):
            counters = self._counters[where]
            counters[2] += sign * sessions
            counters[3] += sign * bounces
            counters[4] += sign * duration_us
            counters[5] += sign * new_visitors
            if events:
                counters[0] += sign * events
                counters[1] += sign * pageviews
                counts = self._counts[where]
                counts[session.visitor_no] = counts.get(session.visitor_no, 0) + sign

    def rows(self) -> Iterator[tuple[BucketKey, list[int], bytes | None]]:
        """What is left to append; sums that came to nothing are left out."""
        for where, counters in self._counters.items():
            visitors = None
            if where in self._sets:
                visitors = encode_set(self._sets[where])
            elif where in self._counts:
                visitors = encode_counts(self._counts[where]) or None
            if visitors is not None or any(counters):
                yield where, counters, visitors
