"""Ends work that a thread does for a call when the call has ended: its statement in Postgres, and what follows it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from common.connection import Connection

CANCEL_SECONDS = 2.0
"""How long a request to cancel a statement may take."""

_SLACK_SECONDS = 0.5
"""How much longer than its call a statement may run by its own time limit. The cancel comes first, so that this limit
matters only where cancels do not reach Postgres."""

# Not for a limit that is shorter already. Text such as "30s" is how Postgres writes a limit.
_BOUND_STATEMENTS = """
SELECT set_config('statement_timeout', %(ms)s::text, true)
WHERE current_setting('statement_timeout') = '0'
   OR current_setting('statement_timeout')::interval > %(ms)s * interval '1 millisecond'
"""

_current = threading.local()


class Stopped(Exception):  # noqa: N818  # no error: the caller no longer waits
    """The call for which this work was done has ended."""


class Stop:
    """Whether the work of one call must end, and the connection on which it runs a statement now."""

    def __init__(self, seconds: float | None) -> None:
        """`seconds` is how long the caller waits from now; None = for ever."""
        self._ends = None if seconds is None else time.monotonic() + seconds
        self._asked = threading.Event()
        self._lock = threading.Lock()
        self._connection: psycopg.Connection[Any] | None = None

    def check(self) -> None:
        """Raises Stopped once the call has ended."""
        if self._asked.is_set():
            raise Stopped

    @contextmanager
    def running(self) -> Iterator[None]:
        """Makes this the one that `check_stop` checks in the current thread."""
        _current.stop = self
        try:
            yield
        finally:
            _current.stop = None

    @contextmanager
    def watching(self, connection: psycopg.Connection[Any]) -> Iterator[None]:
        """Statements of `connection` can be cancelled until the block ends. Raises Stopped for those that were.

        Without this in between, a cancel could hit a statement of the next call that gets the connection. Begin and
        end transactions that must be ended in any case outside of the block.
        """
        assert isinstance(connection, Connection)
        connection.before_statement = check_stop
        with self._lock:
            self.check()
            self._connection = connection
        try:
            yield
        except psycopg.Error:
            # Also the error of a statement that came after a cancelled one in the same transaction.
            self.check()
            raise
        finally:
            # Waits for a request that is under way. Postgres has signalled the backend when the request ends, and a
            # backend between two statements drops the signal.
            with self._lock:
                self._connection = None
            connection.before_statement = None
        self.check()

    def bound_statements(self, connection: psycopg.Connection[Any]) -> None:
        """No statement of the transaction runs much longer than the caller waits, also where no cancel arrives."""
        if self._ends is not None:
            seconds = max(self._ends - time.monotonic(), 0) + _SLACK_SECONDS
            if seconds < _LONGEST_SECONDS:
                connection.execute(_BOUND_STATEMENTS, {"ms": int(seconds * 1_000)})

    def now(self) -> None:
        """Asks the work to end and cancels its statement, if one runs. Waits for Postgres, so not for the event loop.

        The work may be between two statements: call this again until its thread has ended. Raises psycopg.Error if
        Postgres does not take the request.
        """
        self._asked.set()
        with self._lock:
            if self._connection is not None:
                self._connection.cancel_safe(timeout=CANCEL_SECONDS)


_LONGEST_SECONDS = 3_600.0
"""Of a caller who waits longer, the process's own time limit is the shorter one."""


def check_stop() -> None:
    """Raises Stopped if the current thread works for a call that has ended. For loops that compute for long."""
    stop: Stop | None = getattr(_current, "stop", None)
    if stop is not None:
        stop.check()
