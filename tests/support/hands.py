"""What a test needs to do by itself what the admin process would do in its own time."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg

from admin_svc.chunk import Chunk
from admin_svc.counting.aggregate import Aggregator
from admin_svc.counting.visitor_numbers import VisitorNumbers
from admin_svc.maintenance import rebuild
from common.db import Database
from tests.oracle.tables import Tables, stored_tables
from tests.support.footfall_site import FootfallSite
from tests.support.site_rows import site_id_of
from tests.support.suite import Suite

LATER = datetime(2100, 1, 1, tzinfo=UTC)
"""A `now` at which everything pending is due."""


@dataclass(frozen=True)
class Hands:
    """An aggregator and a connection of the test's own beside a running suite."""

    suite: Suite
    numbers: VisitorNumbers
    aggregator: Aggregator
    connection: psycopg.Connection[Any]
    """In autocommit."""

    def rebuild_chunk(
        self, site: FootfallSite, number: int | None = None, *, limit: int = 1_000, now: datetime = LATER
    ) -> Chunk[rebuild.Rebuilt]:
        """One chunk of a rebuild: of that number, or the first of a new one."""
        position = () if number is None else (number,)
        return rebuild.rebuild(self.connection, self.aggregator, self.site_id(site), now, limit, position)

    def site_id(self, site: FootfallSite) -> int:
        """The number the site's rows carry."""
        return site_id_of(self.connection, site)

    def tables(self, site: FootfallSite) -> Tables:
        """The derived tables."""
        return stored_tables(self.connection, self.site_id(site))

    def rows(self, site: FootfallSite, table: str, condition: str = "true") -> list[Any]:
        """The rows with their ctids, so that a row that was written again differs from what it was."""
        found = self.connection.execute(
            f"SELECT ctid::text, * FROM {table} WHERE site_id = %s AND {condition}", (self.site_id(site),)
        )
        return sorted(found.fetchall(), key=repr)


@contextmanager
def hands_on(suite: Suite) -> Iterator[Hands]:
    """Hands on the suite's database."""
    db = Database(suite.database_url, application="test")
    numbers = VisitorNumbers(db)
    with db.connection() as connection:
        yield Hands(suite, numbers, Aggregator(numbers), connection)
    db.close()
