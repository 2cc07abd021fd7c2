"""Connections that are cut after a chosen statement, as a dying server or a network would."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg

from common.connection import Connection, Cursor, Limits
from common.db import Database, DatabaseFault, plain_url
from tests.support.processes import eventually


def end_backend(connection: psycopg.Connection[Any], pid: int) -> None:
    """Ends the backend `pid` from another connection, in autocommit. When it returns the backend's transaction has
    been rolled back and its next statement fails."""
    assert connection.execute("SELECT pg_terminate_backend(%s)", (pid,)).fetchone() == (True,)
    # Postgres can wait by itself, in steps of 100 ms; a backend is gone after one or two.
    gone = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = %s)"
    eventually(lambda: connection.execute(gone, (pid,)).fetchone() == (True,), pause=0.001)


class Scissors:
    """Opens connections whose backend is ended once they have done `after` statements; the start and the end of a
    COPY count as one each."""

    def __init__(self, url: str, after: int) -> None:
        self._url = plain_url(url)
        self._left = after

    @property
    def cut(self) -> bool:
        """Whether it came to that."""
        return self._left <= 0

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection in autocommit."""
        connection = self.connect()
        try:
            yield connection
        finally:
            connection.close()

    def connect(self) -> Connection:
        """A connection in autocommit; the caller's to close."""
        connection = Connection.connect(self._url, autocommit=True)
        connection.limit(Limits(60_000))
        connection.cursor_factory = self._cursor_factory()
        return connection

    def _count(self, connection: psycopg.Connection[Any]) -> None:
        self._left -= 1
        if self._left == 0:
            with psycopg.connect(self._url, autocommit=True) as other:
                end_backend(other, connection.info.backend_pid)

    def _cursor_factory(self) -> type[Cursor[Any]]:
        count = self._count

        class CountedCursor(Cursor[Any]):
            def execute(self, *args: Any, **options: Any) -> Any:
                done = super().execute(*args, **options)
                count(self.connection)
                return done

            @contextmanager
            def copy(self, *args: Any, **options: Any) -> Iterator[psycopg.Copy]:
                with super().copy(*args, **options) as copy:
                    count(self.connection)
                    yield copy
                count(self.connection)

        return CountedCursor


class CutDatabase(Database):
    """A database whose every connection comes from the scissors."""

    def __init__(self, url: str, scissors: Scissors) -> None:
        super().__init__(url, application="property tests")
        self._scissors = scissors

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection that may be cut."""
        with self._scissors.connection() as connection:
            yield connection

    def connect(self) -> Connection:
        """As above."""
        return self._scissors.connect()


def cut_everywhere(url: str, work: Callable[[Scissors], object], state: Callable[[], object]) -> int:
    """Does `work` with its connection cut after its first statement, after its second and so on, and at last whole.
    No cut may change the state. How often it was cut."""
    cuts, before = 0, state()
    while True:
        scissors = Scissors(url, cuts + 1)
        with suppress(*DatabaseFault):
            work(scissors)
        if not scissors.cut:
            return cuts
        cuts += 1
        assert state() == before, f"cut after statement {cuts}"
