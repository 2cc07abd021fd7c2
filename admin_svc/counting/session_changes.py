"""The changes that a chunk of events makes to sessions: those stored before, and those after."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from admin_svc.counting import replay
from admin_svc.counting.reads import Reads
from admin_svc.counting.session_store import Changes, Identity, Window, sessions_around, sessions_named
from admin_svc.counting.sessionize import Event, Session, marked, runs, session_of, sessions_of_stream
from admin_svc.counting.visitors import Visitor

Streams = dict[tuple[int, str], list[Event]]


def session_changes(
    site_id: int,
    events: list[Event],
    visitors: Mapping[str, Visitor],
    timeout: timedelta,
    horizon: datetime | None,
) -> Reads[Changes]:
    """Reads the stored sessions that the events may change, and merges the events into them.

    If the events are replays of a rebuild, `horizon` is the horizon of the rebuild; else it is None.
    """
    numbers = {visitor_id: visitor.number for visitor_id, visitor in visitors.items()}
    streams = _streams(events, numbers)
    stored = yield from _stored_around(site_id, streams, visitors, timeout)
    if horizon is not None:
        events, stored = replay.apart(events, numbers, stored, horizon)
        streams = _streams(events, numbers)
    before = {session.identity: session for session in stored}
    missing = [identity for identity in _former_first_sessions(visitors) if identity not in before]
    if missing:
        named = yield from sessions_named(site_id, missing)
        before |= {session.identity: session for session in named}
    after = _merged(streams, before, visitors, timeout)
    for identity in before.keys() & after.keys():
        if before[identity] == after[identity]:
            del before[identity], after[identity]
    return before, after


def _stored_around(
    site_id: int, streams: Streams, visitors: Mapping[str, Visitor], timeout: timedelta
) -> Reads[list[Session]]:
    """The stored sessions that may merge with the events of the streams."""
    # A new visitor has no sessions yet.
    known = {visitor.number for visitor in visitors.values() if visitor.first_before is not None}
    windows = [
        Window(number, session_id, stream[0].occurred_at - timeout, stream[-1].occurred_at + timeout)
        for (number, session_id), stream in streams.items()
        if number in known
    ]
    return (yield from sessions_around(site_id, windows)) if windows else []


def _former_first_sessions(visitors: Mapping[str, Visitor]) -> list[Identity]:
    """The sessions that held their visitor's first event before this chunk, which has an earlier one."""
    return [
        (visitor.number, visitor.first_before.session_id, visitor.first_before.seen_at)
        for visitor in visitors.values()
        if visitor.first_before is not None and visitor.first_before != visitor.first
    ]


def _merged(
    streams: Streams, before: Mapping[Identity, Session], visitors: Mapping[str, Visitor], timeout: timedelta
) -> dict[Identity, Session]:
    """The sessions of the streams' events and of `before`, merged where the gap is at most the timeout."""
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
    return after


def _streams(events: Sequence[Event], numbers: Mapping[str, int]) -> Streams:
    """The events by visitor number and session id. In each stream they keep their order."""
    streams: defaultdict[tuple[int, str], list[Event]] = defaultdict(list)
    for event in events:
        streams[numbers[event.visitor_id], event.session_id].append(event)
    return streams
