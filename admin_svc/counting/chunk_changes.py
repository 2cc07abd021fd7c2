"""What a chunk of events changes in the derived rows of its site, and how the changes of some sites are stored."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import psycopg

from admin_svc.counting import replay, session_store, visitors
from admin_svc.counting.event_reader import read_events
from admin_svc.counting.queue import PendingBatch
from admin_svc.counting.reads import Reads, Statement
from admin_svc.counting.rollup_deltas import Deltas, append_deltas
from admin_svc.counting.session_changes import session_changes

# The longest gap inside a session of the site.
_SESSION_TIMEOUT = "SELECT session_timeout_us FROM sites WHERE site_id = %(site_id)s"


class ChunkChanges(NamedTuple):
    """What a chunk of one site changes."""

    taken: int
    """How many of the claimed batches it holds: the first ones."""
    visitors: visitors.VisitorChanges
    sessions: session_store.Changes
    deltas: Deltas


def chunk_changes(site_id: int, claimed: Sequence[PendingBatch]) -> Reads[ChunkChanges]:
    """Reads the events of the first claimed batches and the rows that they may change. Locks their visitors."""
    [[timeout_us]] = yield Statement(_SESSION_TIMEOUT, {"site_id": site_id})
    events, taken = yield from read_events(site_id, claimed)
    # A chunk holds either replays or other batches, never both.
    horizon = (yield from replay.horizon(site_id)) if claimed[0].replay else None
    changed = yield from visitors.visitor_changes(site_id, visitors.seen_in(events))
    of = changed.visitors
    sessions = yield from session_changes(site_id, events, of, timedelta(microseconds=timeout_us), horizon)
    deltas = Deltas()
    deltas.add_events(events, [of[event.visitor_id].number for event in events])
    before, after = sessions
    deltas.add_sessions(before.values(), -1)
    deltas.add_sessions(after.values())
    return ChunkChanges(taken, changed, sessions, deltas)


def add_new_visitors(connection: psycopg.Connection[Any], changes: Mapping[int, ChunkChanges]) -> None:
    """Adds the new visitors of some sites (by number, ascending). Raises UniqueViolation as `add_visitors` does."""
    visitors.add_visitors(connection, {site_id: change.visitors for site_id, change in changes.items()})


def store(connection: psycopg.Connection[Any], changes: Mapping[int, ChunkChanges]) -> None:
    """Stores all but the new visitors of some sites (by number) in the caller's transaction."""
    statements = [
        statement
        for site_id, change in changes.items()
        for statement in (
            *visitors.updates(site_id, change.visitors),
            *session_store.updates(site_id, change.sessions),
        )
    ]
    if len(changes) == 1:
        for statement in statements:
            connection.execute(statement.sql, statement.parameters)
    elif statements:
        with connection.pipeline():
            for statement in statements:
                connection.execute(statement.sql, statement.parameters)
    session_store.add_sessions(connection, {site_id: change.sessions for site_id, change in changes.items()})
    append_deltas(connection, {site_id: change.deltas for site_id, change in changes.items()})
