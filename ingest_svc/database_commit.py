"""The transaction that stores a group of calls, on a connection of its own and within a bounded time."""

import time

import psycopg

from common.clock import Clock
from common.connection import Connection, Limits
from common.db import Database, DatabaseFault
from ingest_svc.metrics import watched_commit
from ingest_svc.store_events import BatchNumbers, Incoming, store_events

LIMITS = Limits(5_500)
"""The limits of ingest's transactions. The server ends a statement before the client gives it up: then it is known that
nothing was stored."""

MOST_SECONDS = 6.0
"""How long a group may take, its COMMIT included, so that its callers are answered within 10 s whatever has become of
the database: 4 s for the look-up of the key come before it."""

_TRUSTED_SECONDS = 0.5
"""For how long after its last use a connection is used again without a test."""


class DatabaseCommit:
    """Stores calls in one transaction, on a connection of its own. Returns how many events of each were accepted.

    The pool tests a connection before each use and resets it afterwards, which takes a sixth of the time of a group.
    This connection is tested only if it was not used for half a second.
    """

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db.limited(LIMITS)
        self._clock = clock
        self._numbers = BatchNumbers()
        self._connection: Connection | None = None
        self._used_at = 0.0

    @watched_commit
    def __call__(self, calls: list[Incoming]) -> list[int]:
        """Raises psycopg.OperationalError after 6 s: the events may be stored then, and their dedupe keys make it safe
        to send them again. Raises the errors of store_events; then nothing was stored."""
        until = time.monotonic() + MOST_SECONDS
        connection = self._living_connection(until)
        try:
            with connection.transaction():
                accepted = store_events(connection, self._numbers, calls, self._clock())
        except psycopg.errors.QueryCanceled as error:
            self.close()
            # Not the fault of a call, which cannot ask for less.
            raise psycopg.OperationalError(f"storing events took too long: {error}") from error
        except BaseException:
            # Whatever state the connection is in, its transaction ends when it is closed.
            self.close()
            raise
        self._used_at = time.monotonic()
        return accepted

    def close(self) -> None:
        """Closes the connection; the next call opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _living_connection(self, until: float) -> Connection:
        if self._connection is not None:
            self._connection.until = until
            if time.monotonic() - self._used_at > _TRUSTED_SECONDS:
                try:
                    self._connection.test()
                except DatabaseFault:
                    self.close()
        if self._connection is None:
            self._connection = self._db.connect()
            self._connection.until = until
        return self._connection
