"""A suite of its own for a benchmark: a temporary folder, the services, further processes, and their memory."""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # carries no type information
import psycopg
from footfall.admin.v1 import admin_pb2

from cli.connection import Connection
from cli.connection_file import read_connection_file
from cli.suite import running_suite
from common.db import plain_url

_START_SECONDS = 60.0
_STOP_SECONDS = 20.0
_SAMPLE_SECONDS = 0.05
MEGABYTE = 1_000_000


@dataclass
class Stage:
    """A running suite. It runs no jobs by itself, unless the environment turned the schedule on."""

    folder: Path
    connection: Connection
    database_url: str
    environment: Mapping[str, str] = field(repr=False)

    def create_site(self, slug: str, *, partitions: int = 1, days: int = 36_500) -> str:
        """Creates a site with all retentions of `days` days. Returns its write key."""
        return self.create_sites([slug], partitions=partitions, days=days)[0]

    def create_sites(self, slugs: Sequence[str], *, partitions: int = 1, days: int = 36_500) -> list[str]:
        """Creates sites as `create_site` does. Returns their write keys."""
        settings = admin_pb2.SiteSettings(
            retention_days=days, daily_rollup_retention_days=days, rollup_shard_count=partitions
        )
        with self.connection.open_admin() as admin:
            requests = [admin_pb2.CreateSiteRequest(slug=slug, settings=settings) for slug in slugs]
            return [str(admin.CreateSite(request).write_key) for request in requests]

    def site_id(self, slug: str) -> int:
        """The site's number in the database."""
        with self.database() as connection:
            row = connection.execute("SELECT site_id FROM sites WHERE slug = %s", (slug,)).fetchone()
        assert row is not None, slug
        return int(row[0])

    @contextmanager
    def database(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection to the suite's database, in autocommit."""
        with psycopg.connect(self.database_url, autocommit=True, options="-c timezone=UTC") as connection:
            yield connection

    def service_pid(self, service: str) -> int:
        """The id of the suite's process of a service."""
        for child in psutil.Process().children():
            if f"{service}_svc" in child.cmdline():
                return int(child.pid)
        raise LookupError(f"no {service} process")

    @contextmanager
    def another(self, service: str, **environment: str) -> Iterator[tuple[Connection, int]]:
        """Runs one more process of a service while the block runs. Gives a connection to it, and its process id."""
        label = f"{service}-{time.monotonic_ns()}"
        address_file = self.folder / f"{label}.address"
        settings = {
            "FOOTFALL_DATABASE_URL": self.database_url,
            "FOOTFALL_LISTEN": "127.0.0.1:0",
            "FOOTFALL_ADDRESS_FILE": str(address_file),
            "FOOTFALL_STOP_WITH_PARENT": "true",
        }
        with (self.folder / "log" / f"{label}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", f"{service}_svc"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**self.environment, **settings, **environment},
                start_new_session=True,
            )
        try:
            until = time.monotonic() + _START_SECONDS
            while not address_file.exists():
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"the {service} process did not start; see its log in {self.folder}")
                time.sleep(_SAMPLE_SECONDS)
            yield replace(self.connection, **{service: address_file.read_text()}), process.pid
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def open_stage(**environment: str) -> Iterator[Stage]:
    """Starts a suite on an embedded Postgres in a temporary folder, which is deleted afterwards.

    `environment` is added to the environment of the services, such as FOOTFALL_SCHEDULE="on".
    """
    # Settings of another installation must not be used here, above all not its database.
    own = {name: value for name, value in os.environ.items() if not name.startswith("FOOTFALL_")}
    own |= {"FOOTFALL_SCHEDULE": "off", **environment}
    folder = Path(tempfile.mkdtemp(prefix="footfall-bench-"))
    # When this runs as root, Postgres runs as another user, who needs access to its data.
    folder.chmod(0o755)
    try:
        with running_suite(folder, (0, 0, 0), own) as connection:
            known = read_connection_file(folder)
            assert known is not None
            yield Stage(folder, connection, plain_url(known.database_url), own)
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    note = folder / "postgres.home"
    if note.exists():
        home = Path(note.read_text())
        shutil.rmtree(home, ignore_errors=True)
        home.with_suffix(".lock").unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def peak_memory(pids: Sequence[int]) -> Iterator[list[float]]:
    """The peak resident size of each process while the block runs, in MB. The list is updated meanwhile."""
    peaks = [0.0] * len(pids)
    stopping = threading.Event()

    def sample() -> None:
        processes = [psutil.Process(pid) for pid in pids]
        while True:
            for index, process in enumerate(processes):
                peaks[index] = max(peaks[index], process.memory_info().rss / MEGABYTE)
            if stopping.wait(_SAMPLE_SECONDS):
                return

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        stopping.set()
        thread.join()
