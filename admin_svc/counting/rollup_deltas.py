"""Rollup deltas: the contributions of a chunk's events and sessions to rollups, summed up and appended.

When a session changes, its old contribution is subtracted and its new one is added. So late events, merged sessions and
moved starts give the same numbers as events that come in order.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import compress
from operator import attrgetter
from typing import Any

import psycopg

from admin_svc.counting.sessionize import Event, Session
from common.dimensions import (
    ENTRY_PAGE,
    EVENT_DIMENSIONS,
    EXIT_PAGE,
    KEYED_EVENT_DIMENSIONS,
    OVERVIEW,
    EventType,
)
from common.intervals import HOUR, RollupInterval
from common.timestamps import duration_micros
from common.visitor_sets import encode_counts, encode_set

_EVENT_KEYS = tuple((dimension.number, dimension.key) for dimension in EVENT_DIMENSIONS)
_OCCURRED_AT = attrgetter("occurred_at")
_SESSION_KEYS = tuple(dimension.number for dimension in KEYED_EVENT_DIMENSIONS)
_KEYS = attrgetter("keys")
_ENTRY_PAGE = attrgetter("entry_page")
_EXIT_PAGE = attrgetter("exit_page")
# The bits of one field of a packed number. A chunk has far fewer sessions than a field can count.
_BITS = 32
_FIELD = (1 << _BITS) - 1

BucketKey = tuple[int, datetime, str]
"""Dimension, start of the hour, key."""

# Appends deltas. Those of one chunk have one delta number, and no other chunk has the same.
_COPY_DELTAS = """
COPY rollup_shards (site_id, interval, delta_no, dimension, bucket_start, key, events, pageviews, sessions, bounces,
                    duration_us, new_visitors, visitors) FROM STDIN (FORMAT BINARY)
"""
_DELTA_TYPES = [
    *("int4", "int2", "int4", "int2", "timestamptz", "text"),
    *("int4", "int4", "int4", "int4", "int8", "int4", "bytea"),
]


def hour_of(instant: datetime) -> datetime:
    """The start of the hour of an instant in UTC. `common.intervals.floor_hour` would take twice as long.

    Instants from the database are in UTC, because every transaction sets the time zone (common/connection.py).
    """
    return instant.replace(minute=0, second=0, microsecond=0)


def _pack(session: Session) -> int:
    """The counters of a session in one number, so that summing up takes one addition per session.

    The fields, from the lowest bits up: 1, whether it is a bounce, whether its visitor is new, its duration in µs.
    """
    return (
        1
        | (session.pageviews <= 1) << _BITS
        | session.new_visitor << 2 * _BITS
        | duration_micros(session.ended_at - session.started_at) << 3 * _BITS
    )


class Deltas:
    """Sums of contributions, by dimension, hour and key."""

    def __init__(self) -> None:
        # Events, pageviews, sessions, bounces, duration in µs, new visitors.
        self._counters: defaultdict[BucketKey, list[int]] = defaultdict(lambda: [0] * 6)
        # For event dimensions: visitor numbers, with repeats. For session dimensions: counts by visitor number.
        self._sets: dict[BucketKey, list[int]] = {}
        self._counts: defaultdict[BucketKey, dict[int, int]] = defaultdict(dict)

    def add_events(self, events: Sequence[Event], visitor_nos: Sequence[int]) -> None:
        """Adds events, sorted by time. `visitor_nos` are the numbers of their visitors.

        An event is added under each of its keys, in the hour in which it occurred.
        """
        start = 0
        while start < len(events):
            hour = hour_of(events[start].occurred_at)
            end = bisect_left(events, hour + HOUR, lo=start, key=_OCCURRED_AT)
            self._add_hour(hour, events[start:end], visitor_nos[start:end])
            start = end

    def _add_hour(self, hour: datetime, events: Sequence[Event], visitor_nos: Sequence[int]) -> None:
        # One dimension after the other, each over all events, so that loops in C do most of the work.
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

    def add_sessions(self, sessions: Iterable[Session], sign: int = 1) -> None:
        """Adds (sign 1) or subtracts (sign -1) the contributions of sessions, in the hours in which they started.

        A session is added under the keys of its first event and under its entry and exit page. Its events are added
        under the two pages too, because rows of those dimensions are of whole sessions.
        """
        by_hour: defaultdict[datetime, list[Session]] = defaultdict(list)
        for session in sessions:
            by_hour[hour_of(session.started_at)].append(session)
        for hour, started in by_hour.items():
            packed = [*map(_pack, started)]
            self._add_packed(OVERVIEW.number, hour, {"": sum(packed)}, sign)
            # One dimension after the other, as with events.
            for number, keys in zip(_SESSION_KEYS, zip(*map(_KEYS, started), strict=True), strict=True):
                sums: defaultdict[str | None, int] = defaultdict(int)
                for key, numbers in zip(keys, packed, strict=True):
                    sums[key] += numbers
                self._add_packed(number, hour, sums, sign)
            for number, page_of in ((ENTRY_PAGE.number, _ENTRY_PAGE), (EXIT_PAGE.number, _EXIT_PAGE)):
                self._add_pages(number, hour, [*map(page_of, started)], started, packed, sign)

    def _add_pages(
        self,
        dimension: int,
        hour: datetime,
        pages: Sequence[str | None],
        sessions: Sequence[Session],
        packed: Sequence[int],
        sign: int,
    ) -> None:
        sums: defaultdict[str | None, int] = defaultdict(int)
        for page, session, numbers in zip(pages, sessions, packed, strict=True):
            if page is None:
                continue
            sums[page] += numbers
            where = (dimension, hour, page)
            counters = self._counters[where]
            counters[0] += sign * session.events
            counters[1] += sign * session.pageviews
            counts = self._counts[where]
            counts[session.visitor_no] = counts.get(session.visitor_no, 0) + sign
        self._add_packed(dimension, hour, sums, sign)

    def _add_packed(self, dimension: int, hour: datetime, sums: Mapping[str | None, int], sign: int) -> None:
        for key, packed in sums.items():
            if key is None:
                continue
            counters = self._counters[dimension, hour, key]
            counters[2] += sign * (packed & _FIELD)
            counters[3] += sign * (packed >> _BITS & _FIELD)
            counters[4] += sign * (packed >> 3 * _BITS)
            counters[5] += sign * (packed >> 2 * _BITS & _FIELD)

    def rows(self) -> Iterator[tuple[BucketKey, list[int], bytes | None]]:
        """Dimension, hour and key, the six counters and the visitors of each sum. Sums that are 0 are left out."""
        for where, counters in self._counters.items():
            visitors = None
            if where in self._sets:
                visitors = encode_set(self._sets[where])
            elif where in self._counts:
                visitors = encode_counts(self._counts[where]) or None
            if visitors is not None or any(counters):
                yield where, counters, visitors


def append_deltas(connection: psycopg.Connection[Any], deltas_of: Mapping[int, Deltas]) -> None:
    """Stores the deltas of a chunk of each of some sites (by number) in the caller's transaction."""
    row = connection.execute("SELECT nextval('delta_numbers')").fetchone()
    assert row is not None
    interval, delta_no = int(RollupInterval.HOUR), row[0]
    with connection.cursor() as cursor, cursor.copy(_COPY_DELTAS) as copy:
        copy.set_types(_DELTA_TYPES)
        for site_id, deltas in deltas_of.items():
            for (dimension, hour, key), counters, visitors in deltas.rows():
                copy.write_row((site_id, interval, delta_no, dimension, hour, key, *counters, visitors))
