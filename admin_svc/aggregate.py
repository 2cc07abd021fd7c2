"""Aggregation: one page of pending events becomes visitors, sessions and rollup deltas, all or nothing."""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import psycopg

from admin_svc.contributions import Deltas
from admin_svc.page_of_events import read_events
from admin_svc.pending import (
    PendingBatch,
    claim,
    done,
    lanes_with_work,
    lock_lane,
    record_failure,
    sites_with_work,
)
from admin_svc.replay import apart
from admin_svc.replay import horizon as replay_horizon
from admin_svc.session_store import Identity, Window, replace_sessions, sessions_around, sessions_named
from admin_svc.sessionize import Event, Session, marked, runs, session_of, sessions_of_stream
from admin_svc.site_gate import enter
from admin_svc.visitor_numbers import VisitorNumbers
from admin_svc.visitors import Visitor, seen_in, upsert_visitors
from common.db import HOUR, DatabaseFault

_log = logging.getLogger(__name__)

# The more events a page has, the more of them share a visitor, a session, a delta. So many take a second or two.
DEFAULT_LIMIT = 50_000
MAX_LIMIT = 50_000

# How long a gap a site's sessions bear.
_SESSION_TIMEOUT = "SELECT session_timeout_us FROM sites WHERE site_id = %(site_id)s"

# Appends deltas; all of one page have one shard number, which nothing else has.
_COPY_DELTAS = """
COPY rollup_shards (site_id, interval, shard, dimension, bucket_start, key, events, pageviews, sessions, bounces,
                    duration_us, new_visitors, visitors) FROM STDIN (FORMAT BINARY)
"""
_DELTA_TYPES = [
    *("int4", "int2", "int4", "int2", "timestamptz", "text"),
    *("int4", "int4", "int4", "int4", "int8", "int4", "bytea"),
]

Connection = psycopg.Connection[Any]


class Page(NamedTuple):
    """What one call did, in events."""

    aggregated: int = 0
    failed: int = 0
    worked: bool = False
    """Whether it found a lane it could work on: then another call may find more."""


class Aggregator:
    """Aggregates page after page. Any number may run at once, in one process or many; a lane of a site is
    worked on by one at a time, and should two ever meet on a visitor, they wait for its row."""

    def __init__(self, numbers: VisitorNumbers) -> None:
        self._numbers = numbers
        self._last_site = -1

    def run_once(self, connection: Connection, now: datetime, limit: int) -> Page:
        """One page of whichever site is next in turn; `connection` is in autocommit. An empty Page: nothing to do.

        Raises a DatabaseFault when the database is at fault; then nothing was done.
        """
        sites = sites_with_work(connection, now)
        for site_id in sorted(sites, key=lambda site_id: (site_id <= self._last_site, site_id)):
            # Whatever comes of it, the next site is next: one that is stuck must not hold up the others.
            self._last_site = site_id
            page = self.run_site_once(connection, site_id, now, limit)
            if page.worked:
                return page
        return Page()

    def run_site_once(
        self, connection: Connection, site_id: int, now: datetime, limit: int, *, wait_ms: int = 0
    ) -> Page:
        """One page of one site: of the lane that waits longest among those no other worker holds.

        When all are held, it waits up to `wait_ms` for the first of them. Raises as run_once.
        """
        lanes = lanes_with_work(connection, site_id, now)
        for lane in lanes:
            page = self._run_lane_once(connection, site_id, lane, now, limit, 0)
            if page.worked:
                return page
        return self._run_lane_once(connection, site_id, lanes[0], now, limit, wait_ms) if lanes and wait_ms else Page()

    def _run_lane_once(
        self, connection: Connection, site_id: int, lane: int, now: datetime, limit: int, wait_ms: int
    ) -> Page:
        claimed: list[PendingBatch] = []
        try:
            with connection.transaction():
                if not lock_lane(connection, site_id, lane, wait_ms=wait_ms) or not enter(connection, site_id):
                    return Page()
                claimed = claim(connection, site_id, lane, now, limit)
                if not claimed:
                    return Page()
                taken = claimed[: aggregate_batches(connection, self._numbers, site_id, claimed)]
                done(connection, site_id, lane, taken)
            return Page(aggregated=sum(batch.events for batch in taken), worked=True)
        except Exception as error:
            if isinstance(error, DatabaseFault) and not isinstance(error, psycopg.errors.ProgramLimitExceeded):
                # Not the events' fault: nothing happened, the next call tries again.
                raise
            # Whatever the events did, they must not hold up their neighbours.
            _log.exception("a page of %d batches of site %d, lane %d failed", len(claimed), site_id, lane)
            with connection.transaction():
                if not lock_lane(connection, site_id, lane, wait_ms=0):
                    return Page()
                return Page(failed=record_failure(connection, site_id, lane, claimed, now, error), worked=True)


def aggregate_batches(
    connection: Connection, numbers: VisitorNumbers, site_id: int, claimed: Sequence[PendingBatch]
) -> int:
    """Counts the events of the first batches in the caller's transaction; returns of how many batches."""
    timeout_row = connection.execute(_SESSION_TIMEOUT, {"site_id": site_id}).fetchone()
    assert timeout_row is not None
    timeout = timedelta(microseconds=timeout_row[0])
    events, taken = read_events(connection, site_id, claimed)
    # Replays are claimed apart from other batches.
    begin = replay_horizon(connection, site_id) if claimed[0].replay else None
    visitors = upsert_visitors(connection, numbers, site_id, seen_in(events))
    visitor_nos = [visitors[event.visitor_id].number for event in events]
    deltas = Deltas()
    deltas.add_events(events, visitor_nos)

    before, after = _sessions_before_and_after(connection, site_id, events, visitors, timeout, begin)
    deltas.add_sessions(before.values(), -1)
    deltas.add_sessions(after.values())
    replace_sessions(connection, site_id, before, after)
    _append_deltas(connection, site_id, deltas)
    return taken


def _sessions_before_and_after(
    connection: Connection,
    site_id: int,
    events: list[Event],
    visitors: dict[str, Visitor],
    timeout: timedelta,
    begin: datetime | None,
) -> tuple[dict[Identity, Session], dict[Identity, Session]]:
    """The stored sessions that the events change, and what they become; unchanged ones are in neither.

    `begin` is the horizon of a rebuild whose replays the events are.
    """
    numbers = {visitor_id: visitor.number for visitor_id, visitor in visitors.items()}
    streams = _streams(events, numbers)
    # Whoever is new has no sessions yet.
    known = {visitor.number for visitor in visitors.values() if visitor.first_before is not None}
    windows = [
        Window(
            number,
            session_id,
            stream[0].occurred_at - timeout,
            stream[-1].occurred_at + timeout,
        )
        for (number, session_id), stream in streams.items()
        if number in known
    ]
    stored = sessions_around(connection, site_id, windows) if windows else []
    if begin is not None:
        events, stored = apart(events, numbers, stored, begin)
        streams = _streams(events, numbers)
    before = {session.identity: session for session in stored}
    # A visitor whose first event is an earlier one now: its former first session is first no more.
    moved = [
        (visitor.number, visitor.first_before.session_id, visitor.first_before.seen_at)
        for visitor in visitors.values()
        if visitor.first_before is not None and visitor.first_before != visitor.first
    ]
    missing = [identity for identity in moved if identity not in before]
    if missing:
        before |= {session.identity: session for session in sessions_named(connection, site_id, missing)}

    parts = {stream: [session_of(stream[0], run) for run in runs(of, timeout)] for stream, of in streams.items()}
    for session in before.values():
        parts.setdefault((session.visitor_no, session.session_id), []).append(session)
    firsts = {visitor.number: visitor.first for visitor in visitors.values()}
    after: dict[Identity, Session] = {}
    for of in parts.values():
        for session in of if len(of) == 1 else sessions_of_stream(of, timeout):
            first = firsts[session.visitor_no]
            is_first = (session.started_at, session.first_event_id, session.session_id) == first
            after[session.identity] = session if session.new_visitor == is_first else marked(session, is_first)

    for identity in before.keys() & after.keys():
        if before[identity] == after[identity]:
            del before[identity], after[identity]
    return before, after


def _streams(events: list[Event], numbers: Mapping[str, int]) -> dict[tuple[int, str], list[Event]]:
    """The events by stream, in their order."""
    streams: defaultdict[tuple[int, str], list[Event]] = defaultdict(list)
    for event in events:
        streams[numbers[event.visitor_id], event.session_id].append(event)
    return streams


def _append_deltas(connection: Connection, site_id: int, deltas: Deltas) -> None:
    row = connection.execute("SELECT nextval('shard_numbers')").fetchone()
    assert row is not None
    shard = row[0]
    with connection.cursor() as cursor, cursor.copy(_COPY_DELTAS) as copy:
        copy.set_types(_DELTA_TYPES)
        for (dimension, hour, key), counters, visitors in deltas.rows():
            copy.write_row((site_id, HOUR, shard, dimension, hour, key, *counters, visitors))
