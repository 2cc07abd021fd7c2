"""docs/grpcurl.md is true: a real grpcurl runs every command of it, and what it prints has the shape that is shown."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from footfall.admin.v1 import admin_pb2
from footfall.ingest.v1 import ingest_pb2
from footfall.query.v1 import query_pb2

from admin_svc.schedule.runs import ALL_SITES, COMPACT, Run, record
from cli.suite import running_suite
from tests.support.cookbook import Recipe, recipes, shape_of
from tests.support.processes import eventually
from tests.support.refusals import batch, event
from tests.support.suite import Suite, database_on

PAGE = Path(__file__).resolve().parents[2] / "docs" / "grpcurl.md"
SITE = "shop"
HOW_TO_INSTALL = {
    "grpcurl": "go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3, and put it on PATH",
    "openssl": "install your system's package of it",
}
_SECONDS = 120.0


class Shell:
    """One shell that runs recipe after recipe, so that the later ones know what the earlier ones have set."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        self._number = 0
        self._process = subprocess.Popen(
            ["sh"], stdin=subprocess.PIPE, cwd=folder, env=environment, start_new_session=True, text=True
        )

    def run(self, commands: str) -> str:
        """What the commands print, on both outputs."""
        self._number += 1
        name = f"recipe-{self._number}"
        printed, done = self._folder / f"{name}.out", self._folder / f"{name}.done"
        (self._folder / f"{name}.sh").write_text(commands)
        assert self._process.stdin is not None
        self._process.stdin.write(f". ./{name}.sh </dev/null >{name}.out 2>&1\n: >{name}.done\n")
        self._process.stdin.flush()
        eventually(lambda: done.exists() or self._process.poll() is not None, _SECONDS)
        assert done.exists(), f"the shell gave up: {printed.read_text()}"
        return printed.read_text()

    def close(self) -> None:
        """Ends the shell and whatever it has started."""
        os.killpg(self._process.pid, signal.SIGTERM)
        self._process.communicate()


@contextmanager
def shell(folder: Path, suite: Suite) -> Iterator[Shell]:
    """A shell that finds the suite, and the checkout's Python first."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    opened = Shell(folder, {**os.environ, "PATH": path, "FOOTFALL_DATA_DIR": str(suite.data_dir)})
    try:
        yield opened
    finally:
        opened.close()


@pytest.fixture
def quiet_suite(postgres_url: str, open_folder: Path) -> Iterator[Suite]:
    """A suite with no other sites, in which nothing runs by itself."""
    with database_on(postgres_url) as url:
        environment = {**os.environ, "FOOTFALL_DATABASE_URL": url, "FOOTFALL_SCHEDULE": "off"}
        with running_suite(open_folder / "cookbook", (0, 0, 0), environment) as connection:
            running = Suite(connection, open_folder / "cookbook", url)
            yield running
            running.close()


def let_an_event_fail(suite: Suite) -> None:
    """Makes an event of the site a dead letter, as if it had failed three times."""
    made = suite.admin_stub().CreateApiKey(
        admin_pb2.CreateApiKeyRequest(kind=admin_pb2.API_KEY_KIND_WRITE, site=SITE, name="test"),
        metadata=(("authorization", f"Bearer {suite.admin_key}"),),
    )
    suite.ingest_stub().IngestBatch(batch(event(event_id="poison")), metadata=(("x-write-key", made.key),))
    with psycopg.connect(suite.database_url, autocommit=True) as connection:
        connection.execute(
            """
            WITH gone AS (DELETE FROM pending_batches RETURNING *)
            INSERT INTO failed_events (site_id, batch_id, ord, partition, attempts, received_at, failed_at, error)
            SELECT site_id, batch_id, first_ord, partition, 3, received_at, now(),
                   'NumericValueOutOfRange: out of range'
            FROM gone
            """
        )


def let_jobs_have_run(suite: Suite) -> None:
    """Writes runs down as the schedule does."""
    now = datetime.now(UTC)
    with psycopg.connect(suite.database_url, autocommit=True) as connection:
        [site_id] = connection.execute("SELECT site_id FROM sites WHERE slug = %s", (SITE,)).fetchall()[0]
        for job, of_site, rows in (("aggregate", site_id, 6), (COMPACT, site_id, 44), ("prune", ALL_SITES, 3)):
            record(connection, [Run(of_site, job, now - timedelta(seconds=20), now, 12, rows)])


def let_a_deletion_be_9_seconds_old(suite: Suite) -> None:
    """As it begins: its last chunk comes 10 s after its first, which test_delete_site.py waits for."""
    with psycopg.connect(suite.database_url, autocommit=True) as connection:
        connection.execute(
            """
            CREATE FUNCTION backdate() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN NEW.updated_at := NEW.updated_at - interval '9 s'; RETURN NEW; END $$;
            CREATE TRIGGER backdate BEFORE UPDATE OF status ON sites FOR EACH ROW EXECUTE FUNCTION backdate();
            """
        )


BEFORE: dict[str, Callable[[Suite], None]] = {
    "Failed events": let_an_event_fail,
    "How is it doing?": let_jobs_have_run,
    "Delete a site": let_a_deletion_be_9_seconds_old,
}
"""What must have happened before the first recipe below a heading."""


def need(tool: str) -> None:
    """Skips the test without the tool; under CI, fails it."""
    if shutil.which(tool) is None:
        message = f"docs/grpcurl.md is not tried without {tool}: {HOW_TO_INSTALL[tool]}"
        if os.environ.get("CI") or os.environ.get("FOOTFALL_CI"):
            pytest.fail(message)
        pytest.skip(message)


def test_every_command_of_the_cookbook_prints_what_it_shows(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """In order, in one shell, on a suite of their own."""
    for tool in HOW_TO_INSTALL:
        need(tool)
    suite: Suite = request.getfixturevalue("quiet_suite")
    heading = ""
    with shell(tmp_path, suite) as opened:
        for recipe in recipes(PAGE.read_text()):
            if recipe.heading != heading:
                heading = recipe.heading
                if heading in BEFORE:
                    BEFORE[heading](suite)
            printed = opened.run(recipe.commands)
            assert shape_of(recipe, printed) == shape_of(recipe, recipe.shown), (
                f"{heading}:\n{recipe.commands}\nprinted\n{printed}"
            )


def test_every_rpc_is_in_the_cookbook() -> None:
    """As a command, or named beside the one it is like."""
    page = PAGE.read_text()
    files = (admin_pb2, ingest_pb2, query_pb2)
    rpcs = [
        method for file in files for service in file.DESCRIPTOR.services_by_name.values() for method in service.methods
    ]
    commands = "".join(recipe.commands for recipe in recipes(page))
    assert [rpc.name for rpc in rpcs if f"Service/{rpc.name}" not in commands and f"`{rpc.name}`" not in page] == []


@pytest.mark.parametrize(
    ("kind", "shown", "printed"),
    [
        ("json", '{"aggregated": "1"}', '{"aggregated": 1}'),
        ("json", '{"aggregated": "1"}', '{"aggregated": "1", "hasMore": true}'),
        ("json", '{"rows": [{"key": "/"}]}', '{"rows": [{"key": 1}]}'),
        ("json", '{"rows": [{"key": "/"}]}', '{"rows": []}'),
        ("json", "{} {}", "{}"),
        ("json", '{"start": "2026-01-01T00:00:00Z"}', '{"start": "1767225600"}'),
        ("text", "Code: NotFound", "Code: Unavailable"),
        ("text", "3 rows deleted", "3 rows deleted\nERROR:"),
    ],
)
def test_an_output_that_is_not_as_shown_is_noticed(kind: str, shown: str, printed: str) -> None:
    """A comparison that nothing fails would prove nothing."""
    recipe = Recipe("", "", kind, shown)
    assert shape_of(recipe, printed) != shape_of(recipe, shown)


@pytest.mark.parametrize(
    ("kind", "shown", "printed"),
    [
        ("json", '{"rows": [{"key": "/", "events": "3"}]}', '{"rows": [{"key": "/a", "events": "12"}, {"key": "/b"}]}'),
        ("json", '{"bounceRate": 0.5}', '{"bounceRate": 1}'),
        (
            "text",
            "fw_" + "a" * 43 + " 2026-01-01T00:00:00Z 10 rows",
            "fw_" + "b" * 43 + " 2030-12-31T01:02:03.4Z  7 rows",
        ),
    ],
)
def test_what_varies_may_vary(kind: str, shown: str, printed: str) -> None:
    recipe = Recipe("", "", kind, shown)
    assert shape_of(recipe, printed) == shape_of(recipe, shown)
