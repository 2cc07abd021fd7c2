"""Deletes the erased visitors: of each the sessions with their events, one after the other, and then its row."""

from datetime import datetime
from typing import Any, NamedTuple

import psycopg

from admin_svc.chunk import Position
from admin_svc.maintenance.erasure.events import Budget, Place, Subject, erase_span

_MAX_STEPS = 200
"""How many sessions and visitors a chunk deletes at most: each takes a statement or two, however few rows it has."""
_MAX_PASSES = 3
"""How often a session is searched at most. It is searched again if it changed between two chunks, because events may
have come in before the place that was reached. The bound lets an erasure end while its visitor sends events."""

# The visitor that an earlier chunk has begun with, even if its user has changed since.
_VISITOR = """
SELECT visitor_no, visitor_id FROM visitors WHERE site_id = %(site_id)s AND visitor_no = %(visitor_no)s
"""
# Any visitor of the subject.
_VISITOR_OF = {
    "visitor_id": """
SELECT visitor_no, visitor_id FROM visitors WHERE site_id = %(site_id)s AND visitor_id = %(visitor_id)s
""",
    "user_id": """
SELECT visitor_no, visitor_id FROM visitors WHERE site_id = %(site_id)s AND user_id = %(user_id)s LIMIT 1
""",
}

# A visitor's first sessions, each with the version of its row.
_SESSIONS = """
SELECT session_id, started_at, ended_at, ctid::text || xmin::text FROM sessions
WHERE site_id = %(site_id)s AND visitor_no = %(visitor_no)s ORDER BY session_id, started_at LIMIT %(rows)s
"""
# The last session of a stream that started at or before an instant.
_SESSION_AT = """
SELECT session_id, started_at, ended_at, ctid::text || xmin::text FROM sessions
WHERE site_id = %(site_id)s AND visitor_no = %(visitor_no)s AND session_id = %(session_id)s AND started_at <= %(at)s
ORDER BY started_at DESC LIMIT 1
"""

_DELETE_SESSION = """
DELETE FROM sessions WHERE site_id = %(site_id)s AND visitor_no = %(visitor_no)s AND session_id = %(session_id)s
  AND started_at = %(started_at)s
"""

_DELETE_VISITOR = "DELETE FROM visitors WHERE site_id = %(site_id)s AND visitor_no = %(visitor_no)s"

Connection = psycopg.Connection[Any]


class _Session(NamedTuple):
    session_id: str
    started_at: datetime
    ended_at: datetime
    version: str


class _Scan(NamedTuple):
    """How far a session has been searched that takes several chunks."""

    session_id: str
    version: str
    """The version of the session's row when this pass began."""
    passes: int
    place: Place


class Visitors:
    """Erases the visitors of a subject as far as a chunk's budget goes, in a transaction that holds the site."""

    def __init__(self, connection: Connection, site_id: int, subject: Subject, budget: Budget) -> None:
        self._connection = connection
        self._where = {"site_id": site_id, **subject.parameters}
        self._site_id = site_id
        self._subject = subject
        self._budget = budget
        self._steps = _MAX_STEPS
        self.events = self.sessions = self.visitors = 0
        """Numbers of rows deleted."""

    def erase(self, position: Position) -> Position | None:
        """Erases from `position` on. Returns where to go on; None = everything is erased."""
        begun, scan = _begun(position) if position else (-1, None)
        number = begun
        while (visitor := self._visitor(number)) is not None:
            number, visitor_id = visitor
            if number != begun:
                scan = None
            if self._spent:
                return (number,)
            if (left := self._erase_sessions(number, visitor_id, scan)) is not None:
                return (number, *left)
            begun = -1
        return None

    def _erase_sessions(self, number: int, visitor_id: str, scan: _Scan | None) -> Position | None:
        """Erases the visitor's sessions with their events, and then the visitor, as far as the budget goes. Returns
        where to go on within a session, else None."""
        if scan is not None and (begun := self._session_at(number, scan)) is not None:
            if (left := self._erase_session(number, visitor_id, begun, scan)) is not None:
                return left
            if self._spent:
                return None
        rows = min(self._budget.rows, self._steps)
        parameters = {**self._where, "visitor_no": number, "rows": rows}
        sessions = [_Session._make(row) for row in self._connection.execute(_SESSIONS, parameters)]
        for session in sessions:
            if self._spent:
                return None
            if (left := self._erase_session(number, visitor_id, session, None)) is not None:
                return left
        if len(sessions) < rows and not self._spent:
            self._connection.execute(_DELETE_VISITOR, parameters)
            self.visitors += 1
            self._step()
        return None

    def _erase_session(self, number: int, visitor_id: str, session: _Session, scan: _Scan | None) -> Position | None:
        """Erases one session with its events. Returns where to go on; None = the session is deleted."""
        version, passes, place = session.version, 1, Place(session.started_at)
        if scan is not None:
            if scan.version == version or scan.passes == _MAX_PASSES:
                version, passes, place = scan[1:]
            else:
                passes = scan.passes + 1
        deleted, left = erase_span(self._connection, self._site_id, visitor_id, place, session.ended_at, self._budget)
        self.events += deleted
        if left is not None:
            return (session.session_id, version, passes, *left)
        self._connection.execute(_DELETE_SESSION, {**self._where, "visitor_no": number, **session._asdict()})
        self.sessions += 1
        self._step()
        return None

    def _session_at(self, number: int, scan: _Scan) -> _Session | None:
        parameters = {**self._where, "visitor_no": number, "session_id": scan.session_id, "at": scan.place.at}
        row = self._connection.execute(_SESSION_AT, parameters).fetchone()
        return None if row is None or row[2] < scan.place.at else _Session._make(row)

    def _visitor(self, number: int) -> tuple[int, str] | None:
        """The visitor with the number, if it exists; else any visitor of the subject, if there is one."""
        parameters = {**self._where, "visitor_no": number}
        row = self._connection.execute(_VISITOR, parameters).fetchone()
        return row or self._connection.execute(_VISITOR_OF[self._subject.field], parameters).fetchone()

    def _step(self) -> None:
        self._budget.rows -= 1
        self._steps -= 1

    @property
    def _spent(self) -> bool:
        return self._budget.spent or not self._steps


def _begun(position: Position) -> tuple[int, _Scan | None]:
    """The visitor with which an earlier chunk began, and how far its session was searched."""
    number, *scan = position
    if not scan:
        return number, None
    session_id, version, passes, *place = scan
    return number, _Scan(session_id, version, passes, Place._make(place))
