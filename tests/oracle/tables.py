"""What the tables of a site must hold, counted from raw events; and what they do hold, read without the product."""

import struct
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import psycopg
from pyroaring import BitMap

from tests.oracle.raw_events import (
    CONTEXT_FIELDS,
    DAY,
    DIMENSIONS,
    HOUR,
    SESSION_DIMENSIONS,
    TOUCH_FIELDS,
    RawEvent,
    key_of_event,
    stored_id,
)
from tests.oracle.recount import Recount

NUMBERS = {
    "overview": 0,
    "event": 1,
    "page": 2,
    "referrer": 3,
    "utm_source": 4,
    "utm_medium": 5,
    "utm_campaign": 6,
    "device": 7,
    "browser": 8,
    "os": 9,
    "country": 10,
    "entry_page": 11,
    "exit_page": 12,
}
COUNTED = {NUMBERS[name] for name in SESSION_DIMENSIONS}
"""The dimensions whose rows count visitors; a visitor's count elsewhere is 1."""
KEYS = tuple(name for name in DIMENSIONS if name not in SESSION_DIMENSIONS)

Place = tuple[int, int, str]
"""Dimension, start of the bucket, key."""
Row = tuple[tuple[int, ...], dict[Any, int]]
"""Events, pageviews, sessions, bounces, duration, new visitors; and visitors."""


class Tables(NamedTuple):
    """A site's derived tables without what differs between two equal sites: visitor numbers and deltas."""

    visitors: dict[str, tuple[Any, ...]]
    sessions: dict[tuple[str, str, int], tuple[Any, ...]]
    hours: dict[Place, Row]
    days: dict[Place, Row]


class _Sums:
    def __init__(self) -> None:
        self._rows: defaultdict[Place, tuple[list[int], dict[Any, int]]] = defaultdict(lambda: ([0] * 6, {}))

    def add(self, place: Place, counters: Iterable[int], visitors: Mapping[Any, int]) -> None:
        sums, counts = self._rows[place]
        sums[:] = [one + other for one, other in zip(sums, counters, strict=True)]
        for visitor, count in visitors.items():
            counts[visitor] = counts.get(visitor, 0) + count if place[0] in COUNTED else 1

    def rows(self) -> dict[Place, Row]:
        """The rows that hold something."""
        kept = {
            place: (tuple(sums), {visitor: count for visitor, count in counts.items() if count})
            for place, (sums, counts) in self._rows.items()
        }
        return {place: row for place, row in kept.items() if any(row[0]) or row[1]}


def expected_tables(recount: Recount) -> Tables:
    """The tables as the raw events make them."""
    hours, days = _Sums(), _Sums()

    def add(dimension: str, at: int, key: str, counters: tuple[int, ...], visitors: Mapping[str, int]) -> None:
        if key or dimension == "overview":
            hours.add((NUMBERS[dimension], at // HOUR * HOUR, key), counters, visitors)
            days.add((NUMBERS[dimension], at // DAY * DAY, key), counters, visitors)

    def key_of(dimension: str, event: RawEvent) -> str:
        return "" if dimension == "overview" else key_of_event(dimension, event)

    for event in recount.all_events:
        counters = (1, int(event.type == "pageview"), 0, 0, 0, 0)
        for dimension in ("overview", *KEYS):
            add(dimension, event.occurred_at, key_of(dimension, event), counters, {event.visitor_id: 1})
    sessions: dict[tuple[str, str, int], tuple[Any, ...]] = {}
    for session in recount.all_sessions:
        first = session.first
        own = (1, int(session.bounce), session.end - session.start, int(session.new_visitor))
        for dimension in ("overview", *KEYS):
            add(dimension, session.start, key_of(dimension, first), (0, 0, *own), {})
        for dimension in SESSION_DIMENSIONS:
            counters = (len(session.events), session.pageviews, *own)
            add(dimension, session.start, getattr(session, dimension), counters, {first.visitor_id: 1})
        entry = next((event for event in session.events if event.path), None)
        exit_ = next((event for event in reversed(session.events) if event.path), None)
        sessions[first.visitor_id, first.session_id, session.start] = (
            session.end,
            len(session.events),
            session.pageviews,
            session.new_visitor,
            stored_id(first.event_id),
            *(key_of_event(name, first) for name in KEYS),
            *(_place(one) for one in (entry, exit_)),
        )
    return Tables(_visitors(recount.all_events), {k: _flat(v) for k, v in sessions.items()}, hours.rows(), days.rows())


def _visitors(events: list[RawEvent]) -> dict[str, tuple[Any, ...]]:
    found: dict[str, tuple[Any, ...]] = {}
    for visitor in {event.visitor_id for event in events}:
        own = [event for event in events if event.visitor_id == visitor]
        identify = next((event for event in reversed(own) if event.type == "identify"), None)
        found[visitor] = (
            own[0].occurred_at,
            stored_id(own[0].event_id),
            own[0].session_id,
            _touch(own[0]),
            own[-1].occurred_at,
            stored_id(own[-1].event_id),
            _touch(own[-1]),
            identify and identify.occurred_at,
            identify and stored_id(identify.event_id),
            identify.user_id if identify else "",
            (identify.properties or None) if identify else None,
        )
    return found


def _place(event: RawEvent | None) -> tuple[Any, ...]:
    return (event.occurred_at, stored_id(event.event_id), event.path) if event else (None, None, "")


def _touch(event: RawEvent) -> dict[str, str]:
    return {name: text for name in TOUCH_FIELDS if (text := getattr(event, name))}


def _flat(values: tuple[Any, ...]) -> tuple[Any, ...]:
    flat: list[Any] = []
    for value in values:
        flat += value if isinstance(value, tuple) else (value,)
    return tuple(flat)


def stored_tables(connection: psycopg.Connection[Any], site_id: int) -> Tables:
    """The tables as they are: hours are the sums of their deltas, days their row and their hours' deltas."""
    names = dict(
        connection.execute("SELECT visitor_no, visitor_id FROM visitors WHERE site_id = %s", (site_id,)).fetchall()
    )
    visitors = connection.execute(
        "SELECT visitor_id, first_seen_at, first_event_id, first_session_id, first_touch, last_seen_at, "
        "last_event_id, last_touch, identified_at, identified_event_id, coalesce(user_id, ''), traits "
        "FROM visitors WHERE site_id = %s",
        (site_id,),
    )
    keys = ", ".join(f"coalesce({name}, '')" for name in KEYS)
    sessions = connection.execute(
        f"SELECT visitor_no, session_id, started_at, ended_at, events, pageviews, new_visitor, first_event_id, {keys}, "
        "entry_at, entry_event_id, coalesce(entry_page, ''), exit_at, exit_event_id, coalesce(exit_page, '') "
        "FROM sessions WHERE site_id = %s",
        (site_id,),
    )
    hours, days = _Sums(), _Sums()
    for interval, delta_no, dimension, start, key, blob, *counters in connection.execute(
        "SELECT interval, delta_no, dimension, bucket_start, key, visitors, events, pageviews, sessions, bounces, "
        "duration_us, new_visitors FROM rollup_shards WHERE site_id = %s",
        (site_id,),
    ):
        own = {names[number]: count for number, count in _decoded(dimension, blob).items()}
        at = micros(start)
        if interval == 1:
            hours.add((dimension, at, key), counters, own)
        if interval == 2 or delta_no > 0:
            days.add((dimension, at // DAY * DAY, key), counters, own)
    return Tables(
        {row[0]: tuple(map(_plain, row[1:])) for row in visitors},
        {(names[row[0]], row[1], micros(row[2])): tuple(map(_plain, row[3:])) for row in sessions},
        hours.rows(),
        days.rows(),
    )


def micros(instant: datetime) -> int:
    """Whole microseconds since 1970 UTC."""
    return (instant - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _plain(value: Any) -> Any:
    return micros(value) if isinstance(value, datetime) else value


def _decoded(dimension: int, blob: bytes | None) -> dict[int, int]:
    if dimension not in COUNTED:
        return dict.fromkeys(_members(blob), 1) if blob else {}
    counts: dict[int, int] = {}
    while blob:
        if blob[0]:
            (count, size), head = struct.unpack_from("<bB", blob), 2
        else:
            (count, size), head = struct.unpack_from("<iI", blob, 1), 9
        counts |= dict.fromkeys(_members(blob[head : head + size]), count)
        blob = blob[head + size :]
    return counts


def _members(blob: bytes) -> list[int]:
    """Read here by other means than the product's: a list of numbers of 1 to 4 bytes, or a Roaring bitmap."""
    width = blob[0]
    if width > 4:
        return list(BitMap.deserialize(blob))
    return [int.from_bytes(blob[at : at + width], "little") for at in range(1, len(blob), width)]


assert set(CONTEXT_FIELDS) < set(KEYS)
