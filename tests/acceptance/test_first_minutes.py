"""What goes wrong in the first minutes is one line that says what to do, and never a traceback."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from common.db import plain_url
from tests.support.footfall_site import FootfallSite
from tests.support.suite import database_on
from tests.support.traffic import batch_of, made_up

if TYPE_CHECKING:
    from tests.support.suite import Suite

ROOT = Path(__file__).parents[2]


def footfall(*arguments: object, output: int = subprocess.PIPE, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )


def one_line(text: str) -> str:
    [line] = text.strip().splitlines()
    return line


def test_a_taken_port_is_one_line_that_names_the_option(tmp_path: Path) -> None:
    """Before anything is started: no traceback of a service that could not listen."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        tried = footfall("up", "--data-dir", tmp_path, "--ports", f"0,{port},0")
    assert tried.returncode == 1
    message = one_line(tried.stderr)
    assert f"port {port} of the query service" in message
    assert "--ports" in message


@pytest.mark.parametrize("ports", ["99999,0,0", "-1,0,0", "50051,50051,0", "1,2", "a,b,c"])
def test_ports_that_cannot_be_are_refused(ports: str) -> None:
    """99999 would wrap to 34463."""
    tried = footfall("up", f"--ports={ports}")
    assert tried.returncode == 2
    assert "Traceback" not in tried.stderr


@pytest.fixture(scope="module")
def site(suite: "Suite") -> FootfallSite:
    made = FootfallSite(suite, "first-minutes")
    made.send(batch_of(made_up(77, visitors=5, events=40)))
    made.aggregate()
    return made


def test_a_report_on_an_ascii_terminal_is_readable(suite: "Suite", site: FootfallSite) -> None:
    """Bars of # instead of blocks."""
    report = footfall("report", "--site", site.slug, "--data-dir", suite.data_dir, PYTHONIOENCODING="ascii")
    assert (report.returncode, report.stderr) == (0, "")
    assert report.stdout.isascii()
    assert "####" in report.stdout


def test_a_report_into_a_full_device_is_one_line(suite: "Suite", site: FootfallSite) -> None:
    with Path("/dev/full").open("w") as full:
        report = footfall("report", "--site", site.slug, "--data-dir", suite.data_dir, output=full.fileno())
    assert report.returncode == 1
    assert one_line(report.stderr) == "the output cannot be written: No space left on device"


@pytest.mark.parametrize("url", ["nonsense", "host=x dbname=y", "postgresql://u:p@nowhere.invalid/db", "mysql://x/y"])
def test_a_wrong_database_url_is_one_line(url: str) -> None:
    """Without the password in it."""
    tried = footfall("migrate", FOOTFALL_DATABASE_URL=url)
    assert tried.returncode == 1
    assert ":p@" not in one_line(tried.stderr)


def test_a_schema_of_a_newer_release_is_one_line(postgres_url: str) -> None:
    with database_on(postgres_url) as url:
        assert footfall("migrate", FOOTFALL_DATABASE_URL=url).returncode == 0
        with psycopg.connect(plain_url(url)) as connection:
            connection.execute("UPDATE alembic_version SET version_num = '9999'")
        tried = footfall("migrate", FOOTFALL_DATABASE_URL=url)
    assert tried.returncode == 1
    assert "9999" in one_line(tried.stderr)
