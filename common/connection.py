"""A psycopg connection that depends on no setting of its session and waits for the server for a bounded time.

A connection pooler in transaction mode gives each transaction to another session and drops startup options; a database
or a role may have defaults of its own. So every transaction sets for itself what it needs.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal, NamedTuple, cast

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import Row

_IDLE = TransactionStatus.IDLE

PreparedStatements = Literal["auto", "on", "off"]

_PREPARED_AFTER = 5
"""A statement is prepared when it is executed for the sixth time on a connection: psycopg's own default."""

_IDLE_PATIENCE_SECONDS = 5.0
"""How long the test of an idle connection and the beginning of a transaction wait for an answer."""

_SETTINGS = {
    # psycopg returns instants in the time zone of the session, and hours and days are cut from them.
    "timezone": "UTC",
    "datestyle": "ISO",
    "intervalstyle": "postgres",
    "client_encoding": "UTF8",
    # No statement runs long enough to repay the start of parallel workers or JIT compilation. The planner also
    # estimates a parallel scan of a whole table to cost less than the index scan made for a report.
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
}


class Limits(NamedTuple):
    """The time limits of a transaction in ms; 0 = none."""

    statement_ms: int
    lock_ms: int = 5_000
    """A row that a frozen process has locked blocks others only for a bounded time."""
    idle_ms: int = 60_000

    @property
    def patience(self) -> float | None:
        """For how many seconds the client waits for an answer: a second longer than the server takes at most."""
        return self.statement_ms / 1000 + 1 if self.statement_ms else None

    def settings(self) -> str:
        """The statements that set everything for the rest of the transaction."""
        times = {
            "statement_timeout": self.statement_ms,
            "lock_timeout": self.lock_ms,
            "idle_in_transaction_session_timeout": self.idle_ms,
        }
        return "; ".join(f"SET LOCAL {name} = '{value}'" for name, value in {**_SETTINGS, **times}.items())


UNLIMITED = Limits(0, 0, 0)


class NoAnswer(psycopg.OperationalError):
    """The server did not answer in time, so the connection was closed. What was sent may still be done."""


class Connection(psycopg.Connection[Any]):
    """Its transactions begin with all settings, in one message. A statement outside a transaction gets one of its own.

    Of several threads only one may use it at a time.
    """

    _limits = UNLIMITED
    _settings = UNLIMITED.settings()
    _patience: float | None = None
    until: float | None = None
    """The time (time.monotonic) by which everything must be answered; None = only each wait is bounded."""
    before_statement: Callable[[], None] | None = None
    """Called before each statement of its cursors; what it raises keeps the statement from being sent."""
    when_silent: Callable[[], None] | None = None
    """Called before NoAnswer is raised."""

    def limit(self, limits: Limits) -> None:
        """Sets the limits of the transactions that begin from now on."""
        if limits is not self._limits:
            self._limits, self._settings, self._patience = limits, limits.settings(), limits.patience

    @contextmanager
    def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> Iterator[psycopg.Transaction]:
        """A transaction, or within one a savepoint, as psycopg's own. Yields None for a transaction."""
        if self.pgconn.transaction_status != _IDLE:
            with super().transaction(savepoint_name, force_rollback) as savepoint:
                yield savepoint
            return
        self.begin("BEGIN ISOLATION LEVEL READ COMMITTED")
        try:
            yield cast(psycopg.Transaction, None)
        except BaseException:
            with suppress(psycopg.Error):
                self.rollback()
            raise
        if force_rollback:
            self.rollback()
        else:
            self.commit()

    def begin(self, command: str) -> None:
        """Begins a transaction by `command` and makes its settings. The connection must be in autocommit."""
        # The simple protocol takes several statements in one message, so that the settings cost no round trip.
        self._briefly(f"{command}; {self._settings}")

    def test(self) -> None:
        """One round trip. Raises psycopg.OperationalError if the connection is lost."""
        self._briefly("")

    def _briefly(self, statements: str) -> None:
        patience = self._patience
        if patience is not None:
            self._patience = min(patience, _IDLE_PATIENCE_SECONDS)
        try:
            psycopg.Cursor(self).execute(statements.encode())
        finally:
            self._patience = patience

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """Every wait of psycopg for the server. Raises NoAnswer when it lasts longer than the limits allow.

        A server that is frozen still acknowledges what it is sent, so that no time limit of TCP notices it.
        """
        if timeout is None:
            timeout = self._patience
            if self.until is not None:
                left = max(self.until - time.monotonic(), 0.01)
                timeout = left if timeout is None else min(left, timeout)
        try:
            return super().wait(gen, interval, timeout)
        except psycopg.errors._WaitTimeout:
            # Nothing can follow on this connection: the answer to the statement could still come.
            self.pgconn.finish()
            if self.when_silent is not None:
                self.when_silent()
            raise NoAnswer(f"the database did not answer within {timeout:.1f} s") from None

    def prepare_statements(self, use: PreparedStatements) -> None:
        """Makes psycopg prepare statements or not. "auto" = only if nothing stands between this end and the server.

        Behind a pooler in transaction mode, the next transaction may run in a session without the prepared statements.
        A pooler gives out a process id that is not that of the session.
        """
        if use == "auto":
            row = psycopg.Cursor(self).execute("SELECT pg_backend_pid()").fetchone()
            use = "on" if row == (self.info.backend_pid,) else "off"
        self.prepare_threshold = _PREPARED_AFTER if use == "on" else None


class Cursor(psycopg.Cursor[Row]):
    """A cursor of Connection."""

    def execute(self, query: Any, params: Any = None, **options: Any) -> "Cursor[Row]":
        """As psycopg's own. Outside a transaction the statement gets one, with its settings."""
        connection = self.connection
        if isinstance(connection, Connection) and connection.before_statement is not None:
            connection.before_statement()
        if connection.pgconn.transaction_status == _IDLE and connection.autocommit:
            with connection.transaction():
                super().execute(query, params, **options)
        else:
            super().execute(query, params, **options)
        return self
