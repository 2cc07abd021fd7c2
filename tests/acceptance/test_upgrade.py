"""`footfall up` replaces its services on SIGHUP; a second signal to stop changes no exit status."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import psutil  # type: ignore[import-untyped]  # carries no type information
import psycopg
import pytest

from cli.connection import Connection
from common.db import plain_url
from tests.support.callers import callers
from tests.support.footfall_site import FootfallSite
from tests.support.processes import eventually, is_alive, running_service, service_pids
from tests.support.suite import Suite, database_on

ROOT = Path(__file__).parents[2]
EVERY_MS = 5


@dataclass
class Up:
    """A running `footfall up` and what it has printed."""

    process: "subprocess.Popen[bytes]"
    data_dir: Path
    printed: Path

    def says(self, text: str, times: int = 1) -> bool:
        return self.printed.read_text().count(text) >= times


@contextmanager
def running_up(data_dir: Path, url: str, output: IO[bytes], **settings: str) -> Iterator[Up]:
    data_dir.mkdir()
    environment = {**os.environ, "FOOTFALL_DATABASE_URL": url, **settings}
    command = [sys.executable, "-m", "cli.main", "up", "--data-dir", str(data_dir), "--ports", "0,0,0"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    try:
        up = Up(process, data_dir, Path(output.name))
        eventually(lambda: up.says("Footfall is up") or process.poll() is not None, 90)
        assert process.poll() is None, up.printed.read_text()
        yield up
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


def none_lives(pids: Iterable[int]) -> bool:
    return not any(map(is_alive, pids))


def test_an_upgrade_replaces_every_service_without_a_failed_call(
    postgres_url: str, open_folder: Path, tmp_path: Path
) -> None:
    """Twice; a call of the site's sender and the address of each service stay as they are."""
    data_dir = open_folder / "upgraded"
    with (
        database_on(postgres_url) as url,
        (tmp_path / "output").open("wb") as output,
        running_up(data_dir, url, output, FOOTFALL_CONNECTION_AGE_SECONDS="2") as up,
    ):
        connection = Connection.read(data_dir, {})
        site = FootfallSite(Suite(connection, data_dir, url), "upgraded")
        with callers(connection.ingest, site, query=False) as counts:
            for times in (3, 6):
                before, calls = service_pids(data_dir), dict(counts)
                up.process.send_signal(signal.SIGHUP)
                eventually(partial(up.says, "service has been replaced", times), 120)
                eventually(partial(none_lives, before.values()), 60)
                assert service_pids(data_dir).keys() == before.keys()
                assert all(counts[kind] > calls[kind] for kind in counts)
        assert Connection.read(data_dir, {}) == connection
        assert len(site.events()) == counts["kept"] + counts["opened"]


def test_services_that_cannot_start_leave_those_before_them(
    postgres_url: str, open_folder: Path, tmp_path: Path
) -> None:
    """As when the new code needs another schema: one line says so, and calls are answered as before."""
    data_dir = open_folder / "refused"
    with (
        database_on(postgres_url) as url,
        (tmp_path / "output").open("wb") as output,
        running_up(data_dir, url, output) as up,
    ):
        connection = Connection.read(data_dir, {})
        site = FootfallSite(Suite(connection, data_dir, url), "refused")
        before = service_pids(data_dir)
        with psycopg.connect(plain_url(url), autocommit=True) as database:
            [(revision,)] = database.execute("SELECT version_num FROM alembic_version").fetchall()
            database.execute("UPDATE alembic_version SET version_num = '9999'")
            up.process.send_signal(signal.SIGHUP)
            eventually(lambda: up.says("stays as it is"), 90)
            database.execute("UPDATE alembic_version SET version_num = %s", (revision,))
        assert service_pids(data_dir) == before
        assert site.events() == []


def end_by_many_signals(process: "subprocess.Popen[bytes]", *numbers: int) -> int:
    """Sends the signals in turn, every few milliseconds, until the process has ended. Returns its exit status."""
    until = time.monotonic() + 60
    sent = 0
    while process.poll() is None and time.monotonic() < until:
        process.send_signal(numbers[sent % len(numbers)])
        sent += 1
        time.sleep(EVERY_MS / 1000)
    return process.wait(1)


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize("service", ["ingest", "query", "admin"])
def test_a_second_signal_at_any_moment_does_not_change_the_exit_status(
    suite: Suite, service: str, workers: str
) -> None:
    """Of a process by itself, of a supervisor, and of workers that are told by others too, as systemd does."""
    environment = {"FOOTFALL_DATABASE_URL": suite.database_url, "FOOTFALL_WORKERS": workers}
    with running_service(service, suite.data_dir, environment) as running:
        children = psutil.Process(running.process.pid).children()
        for child in children:
            child.terminate()
        assert end_by_many_signals(running.process, signal.SIGTERM, signal.SIGINT, signal.SIGHUP) == 0
        log = running.log.read_text()
    assert "Traceback" not in log
    assert "ended with -" not in log
    assert not any(is_alive(child.pid) for child in children)


def test_a_second_signal_does_not_change_the_exit_status_of_footfall_up(
    postgres_url: str, open_folder: Path, tmp_path: Path
) -> None:
    data_dir = open_folder / "signalled"
    with (
        database_on(postgres_url) as url,
        (tmp_path / "output").open("wb") as output,
        running_up(data_dir, url, output) as up,
    ):
        pids = service_pids(data_dir)
        assert end_by_many_signals(up.process, signal.SIGTERM, signal.SIGINT) == 0
        assert not up.says("Traceback")
    assert not any(map(is_alive, pids.values()))
