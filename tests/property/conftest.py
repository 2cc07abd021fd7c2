"""Hands for the property tests: an aggregator and a connection of their own beside the running suite."""

from collections.abc import Iterator

import pytest

from admin_svc.aggregate import Aggregator
from admin_svc.visitor_numbers import VisitorNumbers
from common.db import Database
from tests.property.driver import Hands
from tests.suite import Suite


@pytest.fixture(scope="session")
def hands(suite: Suite) -> Iterator[Hands]:
    """On the suite's database."""
    db = Database(suite.database_url, application="property tests")
    with db.connection() as connection:
        yield Hands(suite, Aggregator(VisitorNumbers(db)), connection)
    db.close()
