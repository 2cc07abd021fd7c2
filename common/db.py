"""Connections to Postgres: a pool, and how transactions and snapshots are opened."""

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import sqlalchemy as sa
import sqlalchemy.exc

from common.connection import Connection, Cursor, Limits, NoAnswer, PreparedStatements
from common.database_url import plain_url as plain_url
from common.telemetry.pool_metrics import waited

DatabaseFault = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    # A server that has become a standby: the next connection may find the new primary.
    psycopg.errors.ReadOnlySqlTransaction,
    # The server has closed the connection because its transaction stood still or took too long.
    psycopg.errors.IdleInTransactionSessionTimeout,
    psycopg.errors.TransactionTimeout,
    sqlalchemy.exc.OperationalError,
    sqlalchemy.exc.InterfaceError,
    sqlalchemy.exc.TimeoutError,
)
"""The errors raised when the database cannot be reached, is busy or gives up. Data never causes them."""

LOCK_TIMEOUT_MS = Limits(0).lock_ms

QUICK = Limits(3_000, 3_000)
"""The limits of look-ups by primary key, which calls wait for."""

_CONNECT: dict[str, Any] = {
    "connect_timeout": 4,
    # In s, the last in ms. A host that disappears without closing its connections is noticed within half a minute on an
    # idle connection, and within 6 s on one that has sent something.
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 6_000,
    "client_encoding": "UTF8",
}

_SILENT_SECONDS = 1.0


class _Silence:
    """After the server did not answer, nothing asks it for a second. What has waited behind that call fails at once.

    Otherwise each of many waiting calls would wait for as long again, one after the other.
    """

    def __init__(self) -> None:
        self._until = 0.0

    def begin(self) -> None:
        self._until = time.monotonic() + _SILENT_SECONDS

    def check(self) -> None:
        if time.monotonic() < self._until:
            raise NoAnswer("the database did not answer the call before")


class Database:
    """A pool of at most `pool_size` connections, opened when needed and tested before use.

    Functions that take a psycopg connection never commit. The code that opens a transaction here ends it. The pool is
    SQLAlchemy's; statements are plain SQL. No startup option is sent, because poolers drop or refuse them: each
    transaction sets what it needs (common/connection.py).
    """

    def __init__(
        self,
        url: str,
        *,
        application: str,
        pool_size: int = 8,
        statement_timeout_ms: int = 60_000,
        limits: Limits | None = None,
        prepared_statements: PreparedStatements = "auto",
    ) -> None:
        """`limits` are those of its transactions; without them they are those of `statement_timeout_ms`.

        Raises UrlError for a text that names no database.
        """
        self._conninfo = plain_url(url)
        self._application = application
        self._prepared_statements = prepared_statements
        self._limits = limits or Limits(statement_timeout_ms)
        self._silence = _Silence()
        self.engine = sa.create_engine(
            "postgresql+psycopg://",
            creator=self.connect,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=10,
        )
        # In place of pool_pre_ping, which would change the connection to autocommit and back for it.
        sa.event.listen(self.engine, "checkout", _test)
        sa.event.listen(self.engine, "begin", _begin)

    def limited(self, limits: Limits) -> "Database":
        """The same database and pool, with other limits for transactions."""
        other = copy.copy(self)
        other._limits = limits
        return other

    def connect(self) -> Connection:
        """A connection outside the pool, in autocommit. The caller tests and closes it."""
        self._silence.check()
        try:
            connection = Connection.connect(
                self._conninfo,
                autocommit=True,
                application_name=self._application,
                cursor_factory=Cursor,
                **_CONNECT,
            )
        except psycopg.errors.ConnectionTimeout:
            self._silence.begin()
            raise
        connection.when_silent = self._silence.begin
        connection.limit(self._limits)
        connection.prepare_statements(self._prepared_statements)
        return connection

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Connection[Any]]:
        """A psycopg connection in a transaction, which is committed unless the block raises."""
        with self.connection() as connection, connection.transaction():
            yield connection

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection[Any]]:
        """A psycopg connection in autocommit; `with connection.transaction():` opens a transaction."""
        with self._pooled() as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[psycopg.Connection[Any]]:
        """A read-only transaction whose statements all see the database at one instant."""
        with self._pooled() as connection:
            connection.begin("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            try:
                yield connection
            finally:
                if not connection.closed:
                    connection.rollback()

    @contextmanager
    def _pooled(self) -> Iterator[Connection]:
        self._silence.check()
        try:
            pooled = waited(self._application, self.engine.raw_connection)
        except sqlalchemy.exc.DBAPIError as error:
            # The driver's own error, which is one line.
            raise error.orig or error from None
        try:
            connection = pooled.driver_connection
            assert isinstance(connection, Connection)
            connection.limit(self._limits)
            connection.autocommit = True
            try:
                yield connection
            finally:
                # A transaction that the block has left open is rolled back by the pool.
                if connection.closed:
                    pooled.invalidate()
        finally:
            pooled.close()

    def close(self) -> None:
        """Closes the pool's idle connections."""
        self.engine.dispose()


def _test(connection: object, record: Any, _proxy: object) -> None:
    assert isinstance(connection, Connection)
    # SQLAlchemy may have begun a transaction by itself, to look at the server.
    connection.rollback()
    connection.autocommit = True
    # One that was opened just now is not tested.
    if record.info.setdefault("used", False):
        try:
            connection.test()
        except psycopg.Error:
            raise sqlalchemy.exc.DisconnectionError from None
    record.info["used"] = True


def _begin(begun: sa.Connection) -> None:
    """Begins the transactions of SQLAlchemy's connections, those of migrations, as all others are begun."""
    connection = begun.connection.driver_connection
    assert isinstance(connection, Connection)
    connection.autocommit = True
    if begun.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
        connection.begin("BEGIN ISOLATION LEVEL READ COMMITTED")
