"""Connections to Postgres: a pool, and how transactions and snapshots are opened."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import sqlalchemy as sa
import sqlalchemy.exc

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

LOCK_TIMEOUT_MS = 5_000
IDLE_TIMEOUT_MS = 60_000
# In seconds. A host that disappears without closing its connections is noticed within half a minute.
_CONNECT = {"connect_timeout": 5, "keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3}


class Database:
    """A pool of at most `pool_size` connections, opened when needed and tested before use.

    Functions that take a psycopg connection never commit. The code that opens a transaction here ends it. The pool is
    SQLAlchemy's; statements are plain SQL.
    """

    def __init__(self, url: str, *, application: str, pool_size: int = 8, statement_timeout_ms: int = 60_000) -> None:
        """`statement_timeout_ms` bounds every statement. 0 = no bound on statements and locks, for migrations only."""
        lock_timeout_ms = LOCK_TIMEOUT_MS if statement_timeout_ms else 0
        options = (
            f"-c timezone=UTC -c statement_timeout={statement_timeout_ms} "
            # A row that a frozen process has locked blocks others only for a bounded time.
            f"-c lock_timeout={lock_timeout_ms} -c idle_in_transaction_session_timeout={IDLE_TIMEOUT_MS} "
            # No statement runs long enough to repay the start of parallel workers or JIT compilation. The planner
            # also estimates a parallel scan of a whole table to cost less than the index scan made for a report.
            "-c max_parallel_workers_per_gather=0 -c jit=off"
        )
        self._url = url
        self._application = application
        self._connect_args: dict[str, Any] = {"options": options, "application_name": application, **_CONNECT}
        self.engine = sa.create_engine(
            _driver_url(url),
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=10,
            pool_pre_ping=True,
            connect_args=self._connect_args,
        )

    def connect(self) -> psycopg.Connection[Any]:
        """A connection outside the pool, not in autocommit. The caller tests and closes it."""
        return psycopg.connect(plain_url(self._url), **self._connect_args)

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Connection[Any]]:
        """A psycopg connection in a transaction, which is committed unless the block raises."""
        with self.connection() as connection, connection.transaction():
            yield connection

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection[Any]]:
        """A psycopg connection in autocommit; `with connection.transaction():` opens a transaction."""
        pooled = waited(self._application, self.engine.connect)
        with pooled.execution_options(isolation_level="AUTOCOMMIT"):
            raw = pooled.connection.driver_connection
            assert isinstance(raw, psycopg.Connection)
            try:
                yield raw
            finally:
                if raw.closed:
                    pooled.invalidate()

    @contextmanager
    def snapshot(self) -> Iterator[psycopg.Connection[Any]]:
        """A read-only transaction whose statements all see the database at one instant."""
        with self.connection() as connection:
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            try:
                yield connection
            finally:
                if not connection.closed:
                    connection.rollback()

    def close(self) -> None:
        """Closes the pool's idle connections."""
        self.engine.dispose()


def _driver_url(url: str) -> sa.URL:
    return sa.make_url(url).set(drivername="postgresql+psycopg")


def plain_url(url: str) -> str:
    """The URL in the form that psql and psycopg take: without the name of a driver, with its password."""
    return sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
