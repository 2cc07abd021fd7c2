"""A running suite: real processes, real Postgres, real channels.

Tests run in a time zone that is not UTC, so that a naive local time cannot pass for a right one. With
FOOTFALL_TEST_DATABASE_URL they use databases of their own on that server, else the embedded one.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fasteners import InterProcessLock

from admin_svc.counting.aggregate import Aggregator
from admin_svc.counting.visitor_numbers import VisitorNumbers
from cli.embedded_postgres import EmbeddedPostgres
from cli.suite import running_suite
from common.db import Database, plain_url
from tests.support.hands import Hands, hands_on
from tests.support.poison import Worker
from tests.support.suite import Suite, database_on

os.environ["TZ"] = "Asia/Kathmandu"
time.tzset()


@pytest.fixture(scope="session")
def open_folder() -> Iterator[Path]:
    """A folder that everybody may read: run as root, Postgres is another user. pytest's own are closed."""
    folder = Path(tempfile.mkdtemp(prefix="footfall-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_url(open_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server on which tests may make databases; each process of pytest-xdist has its own."""
    given = os.environ.get("FOOTFALL_TEST_DATABASE_URL")
    if given:
        yield given
        return
    postgres = EmbeddedPostgres(open_folder)
    # The first start on a machine may make an OS user and a copy of the binaries: one process at a time.
    with InterProcessLock(tmp_path_factory.getbasetemp().parent / "postgres.lock"):
        url = postgres.start()
    with psycopg.connect(plain_url(url), autocommit=True) as connection:
        # Nobody kills this server or its machine, so that its files need not be synced to disk.
        for setting in ("fsync", "full_page_writes"):
            connection.execute(f"ALTER SYSTEM SET {setting} = off")
        connection.execute("SELECT pg_reload_conf()")
    yield url
    postgres.stop()


@pytest.fixture(scope="session")
def suite(postgres_url: str, open_folder: Path) -> Iterator[Suite]:
    """The three services on a database of their own. Nothing runs by itself: AggregatePending drives it."""
    with database_on(postgres_url) as url:
        data_dir = open_folder / "suite"
        environment = {**os.environ, "FOOTFALL_DATABASE_URL": url, "FOOTFALL_SCHEDULE": "off"}
        with running_suite(data_dir, (0, 0, 0), environment) as connection:
            running = Suite(connection, data_dir, url)
            yield running
            running.close()


@pytest.fixture(scope="session")
def hands(suite: Suite) -> Iterator[Hands]:
    """Hands on the suite's database."""
    with hands_on(suite) as made:
        yield made


@pytest.fixture(scope="session")
def database(hands: Hands) -> psycopg.Connection[Any]:
    """A connection in autocommit to the suite's database."""
    return hands.connection


@pytest.fixture
def worker(suite: Suite) -> Iterator[Worker]:
    """An aggregator with a clock of the test's own; nothing is pending that other tests have left."""
    numbers, db = (Database(suite.database_url, application="test") for _ in range(2))
    with db.connection() as connection:
        made = Worker(Aggregator(VisitorNumbers(numbers)), connection, datetime.now(UTC))
        made.run()
        made.now += timedelta(minutes=1)
        yield made
    db.close()
    numbers.close()
