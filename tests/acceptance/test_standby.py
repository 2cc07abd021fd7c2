"""On a hot standby reports are answered and verified, and what would write says so."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from cli.main import app
from common.db import plain_url
from tests.support.footfall_site import FootfallSite
from tests.support.processes import running_service
from tests.support.site_rows import site_id_of
from tests.support.standby import caught_up, standby_of
from tests.support.suite import Suite
from tests.support.traffic import batch_of, made_up


@pytest.fixture(scope="module")
def standby(suite: Suite, open_folder: Path) -> Iterator[str]:
    """A standby with the suite's database."""
    folder = open_folder / "standby"
    with standby_of(suite.database_url, folder) as url:
        yield url
    shutil.rmtree(folder, ignore_errors=True)


def test_answers_are_verified_and_wrong_ones_are_found(suite: Suite, standby: str, open_folder: Path) -> None:
    site = FootfallSite(suite, "standby")
    site.send(batch_of(made_up(51, visitors=8, events=60)))
    site.aggregate()
    with running_service("query", open_folder, {"FOOTFALL_DATABASE_URL": standby}) as query:

        def verify() -> tuple[int, str]:
            result = CliRunner().invoke(
                app,
                ["verify", "--site", site.slug, "--data-dir", str(suite.data_dir)],
                env={"FOOTFALL_DATABASE_URL": standby, "FOOTFALL_QUERY": query.address, "COLUMNS": "200"},
            )
            return result.exit_code, result.output

        caught_up(suite.database_url, standby)
        code, output = verify()
        assert (code, "equals the recount" in output) == (0, True), output
        with psycopg.connect(plain_url(suite.database_url)) as connection:
            damage = "UPDATE rollup_shards SET events = events + 1 WHERE site_id = %s AND dimension = 0"
            assert connection.execute(damage, (site_id_of(connection, site),)).rowcount
        caught_up(suite.database_url, standby)
        code, output = verify()
        assert (code, "differ from the recount" in output) == (1, True), output
