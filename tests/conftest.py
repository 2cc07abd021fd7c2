"""A running suite: real processes, real Postgres, real channels.

Tests run in a time zone that is not UTC, so that a naive local time cannot pass for a right one. With
FOOTFALL_TEST_DATABASE_URL they use databases of their own on that server, else the embedded one.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.embedded_postgres import EmbeddedPostgres
from cli.suite import running_suite
from tests.suite import Suite, database_on

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
def postgres_url(open_folder: Path) -> Iterator[str]:
    """A server on which tests may make databases."""
    given = os.environ.get("FOOTFALL_TEST_DATABASE_URL")
    if given:
        yield given
        return
    postgres = EmbeddedPostgres(open_folder)
    yield postgres.start()
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
