"""`footfall up` on its own Postgres: stopped, killed and started again on one data folder."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil  # type: ignore[import-untyped]  # carries no type information
import psycopg
import pytest

from cli.connection import Connection
from cli.connection_file import ConnectionFile, read_connection_file
from cli.embedded_postgres import EmbeddedPostgres
from tests.oracle.raw_events import SECOND
from tests.support.footfall_site import FootfallSite
from tests.support.processes import eventually, is_alive, service_pids
from tests.support.suite import Suite
from tests.support.traffic import assert_recounts, batch_of, made_up, metadata_of, until_aggregated

ROOT = Path(__file__).parents[2]
MAY_2015 = 1_430_438_400 * SECOND, 1_433_116_800 * SECOND
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("FOOTFALL_")}
LINE = (
    '192.0.2.{visitor} - - [17/May/2015:10:{minute:02}:00 +0000] "GET /page/{page} HTTP/1.1" 200 12 "-" '
    '"Mozilla/5.0 (X11; Linux x86_64; rv:115.0) Gecko/20100101 Firefox/115.0"\n'
)


def footfall(*arguments: object, **options: Any) -> subprocess.Popen[bytes]:
    """The command, started."""
    command = [sys.executable, "-m", "cli.main", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, **options)


@dataclass
class Up:
    """A running `footfall up`."""

    process: subprocess.Popen[bytes]
    data_dir: Path
    postgres_pid: int

    @property
    def written(self) -> ConnectionFile:
        found = read_connection_file(self.data_dir)
        assert found is not None
        return found

    @property
    def pids(self) -> list[int]:
        """Every process that it started, Postgres with its children too."""
        workers = psutil.Process(self.postgres_pid).children(recursive=True)
        return [*service_pids(self.data_dir).values(), self.postgres_pid, *(worker.pid for worker in workers)]

    @contextmanager
    def suite(self) -> Iterator[Suite]:
        written = self.written
        suite = Suite(
            Connection(written.ingest, written.query, written.admin, written.admin_key),
            self.data_dir,
            written.database_url,
        )
        yield suite
        suite.close()

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(30) == 0


class KnownSite(FootfallSite):
    """A site that was made before the restart; it is only asked."""

    def __init__(self, suite: Suite, slug: str) -> None:
        self.slug = slug
        self.as_admin = (("authorization", f"Bearer {suite.admin_key}"),)
        self.query = suite.query_stub()


@pytest.fixture(scope="module")
def data_dir(open_folder: Path) -> Iterator[Path]:
    """A data folder; whatever Postgres still runs on it in the end is stopped."""
    folder = open_folder / "up"
    yield folder
    postgres = EmbeddedPostgres(folder)
    postgres.start()
    postgres.stop()


@contextmanager
def running_up(data_dir: Path) -> Iterator[Up]:
    """Starts it on free ports; in the end it is stopped unless the test has done that."""
    with (data_dir.parent / "up.out").open("w+b") as output:
        process = footfall("up", "--data-dir", data_dir, "--ports", "0,0,0", stdout=output, stderr=output)
        try:
            said = Path(output.name)
            eventually(lambda: b"Footfall is up" in said.read_bytes() or process.poll() is not None, 60)
            assert process.poll() is None, said.read_text()
            postmaster = EmbeddedPostgres(data_dir).home / "postmaster.pid"
            yield Up(process, data_dir, int(postmaster.read_text().split()[0]))
        finally:
            process.terminate()
            process.wait(30)


def import_log(data_dir: Path, slug: str, log: Path) -> str:
    """The words that the import prints."""
    process = footfall("import", "access-log", log, "--site", slug, "--data-dir", data_dir, stdout=subprocess.PIPE)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    return " ".join(re.findall(r"\w+", output.decode()))


def test_an_existing_folder_keeps_its_key_its_numbers_and_what_was_imported(data_dir: Path, tmp_path: Path) -> None:
    """After a stop and a start; the same log once more is all duplicates."""
    log = tmp_path / "access.log"
    log.write_text("".join(LINE.format(visitor=n % 7, minute=n, page=n % 3) for n in range(50)))
    with running_up(data_dir) as first, first.suite() as suite:
        key = first.written.admin_key
        site = FootfallSite(suite, "kept")
        assert "accepted 50" in import_log(data_dir, site.slug, log)
        until_aggregated(site)
        events, sessions, overview = site.events(), site.session_rows(), site.overview(*MAY_2015)
        assert overview.pageviews == 50
        first.stop()
    with running_up(data_dir) as second, second.suite() as suite:
        assert second.written.admin_key == key
        again = KnownSite(suite, site.slug)
        assert "duplicate 50" in import_log(data_dir, site.slug, log)
        until_aggregated(again)
        assert (again.events(), again.session_rows(), again.overview(*MAY_2015)) == (events, sessions, overview)
        second.stop()


def test_sigterm_answers_the_calls_under_way_and_leaves_no_process(data_dir: Path) -> None:
    """A batch that waits for its commit while the processes drain is stored and answered."""
    with running_up(data_dir) as up, up.suite() as suite, ThreadPoolExecutor() as pool:
        site = FootfallSite(suite, "drained")
        events = made_up(51, visitors=3, events=20)
        pids, ingest_log = up.pids, data_dir / "log" / "ingest.log"
        drained = ingest_log.read_text().count("drains")
        with psycopg.connect(up.written.database_url) as holder:
            holder.execute("LOCK TABLE events IN SHARE ROW EXCLUSIVE MODE")
            answer = pool.submit(site.send, batch_of(events))
            waiting = "SELECT FROM pg_locks WHERE relation = 'events'::regclass AND NOT granted"
            eventually(lambda: holder.execute(waiting).fetchone() is not None)
            up.process.send_signal(signal.SIGTERM)
            eventually(lambda: ingest_log.read_text().count("drains") > drained)
            assert not answer.done()
            holder.rollback()
        assert answer.result().accepted == len(events)
        assert up.process.wait(30) == 0
        assert [pid for pid in pids if is_alive(pid)] == []
    with running_up(data_dir) as up, up.suite() as suite:
        again = KnownSite(suite, site.slug)
        until_aggregated(again)
        assert_recounts(again, events)


def test_when_up_itself_is_killed_its_services_stop_and_the_next_one_takes_the_folder(data_dir: Path) -> None:
    """Postgres may be left running; the next `up` takes it over and its end is the end of that too."""
    events = made_up(52, visitors=3, events=20)
    with running_up(data_dir) as up, up.suite() as suite:
        site = FootfallSite(suite, "orphaned")
        site.send(batch_of(events))
        services = service_pids(data_dir)
        assert set(services) == {"ingest", "query", "admin"}
        up.process.kill()
        eventually(lambda: not any(is_alive(pid) for pid in services.values()))
    with running_up(data_dir) as up, up.suite() as suite:
        again = KnownSite(suite, site.slug)
        until_aggregated(again)
        assert_recounts(again, events)
        pids = up.pids
        up.stop()
        assert [pid for pid in pids if is_alive(pid)] == []


def unless_away(call: Callable[[], bool]) -> bool:
    """What the call says; False while the database is away, when calls must say so and nothing else."""
    try:
        return call()
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return False


@pytest.fixture(scope="class")
def installed(data_dir: Path) -> Iterator[Up]:
    with running_up(data_dir) as up:
        yield up


class TestARunningInstall:
    """Two things that happen to it."""

    def test_a_folder_in_use_is_refused_and_its_user_is_not_disturbed(self, installed: Up, data_dir: Path) -> None:
        pids, written = installed.pids, installed.written
        second = footfall("up", "--data-dir", data_dir, "--ports", "0,0,0", stderr=subprocess.PIPE)
        _, message = second.communicate(timeout=30)
        assert second.returncode == 1
        assert message.decode().startswith(f"footfall is already running on {data_dir}")
        assert "Traceback" not in message.decode()
        assert set(service_pids(data_dir).values()) <= set(pids)
        assert installed.written == written

    def test_a_killed_postgres_is_started_again_and_the_services_go_on(self, installed: Up, data_dir: Path) -> None:
        """Nobody else is restarted, and what was acknowledged before is there."""
        with installed.suite() as suite:
            site = FootfallSite(suite, "crashed")
            events = made_up(53, visitors=3, events=40)
            site.send(batch_of(events[:20]))
            services = service_pids(data_dir)
            os.kill(installed.postgres_pid, signal.SIGKILL)
            eventually(lambda: unless_away(lambda: site.send(batch_of(events[20:])).rejected == 0), 60)
            # Backends may outlive a killed server by a moment: what was taken by one of them is kept all the same.
            eventually(lambda: unless_away(lambda: metadata_of(site).pending_events == 0), 60)
            assert_recounts(site, events)
            assert service_pids(data_dir) == services
            assert json.loads((data_dir / "footfall.json").read_text())["database_url"] == suite.database_url
