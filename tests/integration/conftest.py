"""What several tests of the running suite need beside it."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from admin_svc.aggregate import Aggregator
from admin_svc.visitor_numbers import VisitorNumbers
from common.db import Database
from tests.poison import Worker
from tests.suite import Suite


@pytest.fixture(scope="session")
def database(suite: Suite) -> Iterator[psycopg.Connection[Any]]:
    """A connection in autocommit to the suite's database."""
    db = Database(suite.database_url, application="test")
    with db.connection() as connection:
        yield connection
    db.close()


@pytest.fixture
def worker(suite: Suite) -> Iterator[Worker]:
    numbers, db = (Database(suite.database_url, application="test") for _ in range(2))
    with db.connection() as connection:
        # What the other tests of the session have left.
        made = Worker(Aggregator(VisitorNumbers(numbers)), connection, datetime.now(UTC))
        made.run()
        made.now += timedelta(minutes=1)
        yield made
    db.close()
    numbers.close()
