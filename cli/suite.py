"""Everything on one machine: Postgres, the three services, and a watcher that restarts them."""

import logging
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import fasteners
import psycopg
from sqlalchemy.exc import DBAPIError

from cli.connection import Connection
from cli.connection_file import ConnectionFile, read_connection_file
from cli.embedded_postgres import EmbeddedPostgres
from common.database_url import UrlError
from common.db import Database, DatabaseFault
from common.migrate import MIGRATION_LIMITS, migrate
from common.schema_revision import SchemaError

_log = logging.getLogger(__name__)

SERVICES = ("ingest", "query", "admin")
DEFAULT_PORTS = (50051, 50052, 50053)

_START_SECONDS = 60.0
_STOP_SECONDS = 20.0
_POLL_SECONDS = 0.05
_WATCH_SECONDS = 0.5
_LONGEST_PAUSE = 10.0


class SuiteError(Exception):
    """The suite cannot run. The message says why and what to do."""


@dataclass
class _Service:
    """The process of a service, which can be started again at the same address."""

    name: str
    data_dir: Path
    environment: dict[str, str]
    listen: str
    process: subprocess.Popen[bytes] | None = None
    pause: float = field(default=0.5)
    not_before: float = 0.0

    @property
    def log(self) -> Path:
        return self.data_dir / "log" / f"{self.name}.log"

    @property
    def _address_file(self) -> Path:
        return self.data_dir / f"{self.name}.address"

    def start(self) -> None:
        """Starts the process. `wait` returns when it answers."""
        self._address_file.unlink(missing_ok=True)
        environment = {
            **self.environment,
            "FOOTFALL_LISTEN": self.listen,
            "FOOTFALL_ADDRESS_FILE": str(self._address_file),
            "FOOTFALL_STOP_WITH_PARENT": "true",
        }
        with self.log.open("ab") as log:
            # A process session of its own: Ctrl-C reaches only the parent, which stops all services in order.
            self.process = subprocess.Popen(
                # -P, so that a folder of the same name in the working directory is not imported.
                [sys.executable, "-P", "-m", f"{self.name}_svc"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Returns once the process answers calls. Raises SuiteError, with the end of its log, if it does not."""
        assert self.process is not None
        until = time.monotonic() + _START_SECONDS
        while not self._address_file.exists():
            if self.process.poll() is not None or time.monotonic() > until:
                self.stop()
                tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-5:])
                raise SuiteError(f"the {self.name} service did not start; {self.log} ends with:\n{tail}")
            time.sleep(_POLL_SECONDS)
        # A port that was chosen for 0 is kept, so that clients find the service after a restart.
        self.listen = self._address_file.read_text()

    def restart_if_dead(self) -> None:
        """Starts the process again if it has ended. The pause doubles, up to 10 s, each time that fails."""
        assert self.process is not None
        if self.process.poll() is None or time.monotonic() < self.not_before:
            return
        _log.warning("the %s service ended with %s; starting it again", self.name, self.process.returncode)
        try:
            self.start()
            self.wait()
            self.pause = 0.5
        except SuiteError as error:
            _log.warning("%s", error)
            self.pause = min(self.pause * 2, _LONGEST_PAUSE)
        self.not_before = time.monotonic() + self.pause

    def terminate(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def stop(self) -> None:
        """Lets calls under way finish. Kills the process if it does not end within 20 s."""
        self.terminate()
        if self.process is not None:
            try:
                self.process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


@contextmanager
def running_suite(
    data_dir: Path, ports: tuple[int, int, int] = DEFAULT_PORTS, environment: Mapping[str, str] = os.environ
) -> Iterator[Connection]:
    """Starts everything on `data_dir` and yields a connection to it. On exit everything is drained and stopped.

    Port 0 takes a free one. `environment` is the environment of the services. The database is that of its
    FOOTFALL_DATABASE_URL, else an embedded one. Raises SuiteError if the folder is in use or a service does not start.
    """
    try:
        (data_dir / "log").mkdir(parents=True, exist_ok=True)
        lock = fasteners.InterProcessLock(data_dir / "up.lock")
        free = lock.acquire(blocking=False)
    except OSError as error:
        raise SuiteError(f"{data_dir} cannot be written to: {error}") from error
    if not free:
        raise SuiteError(f"footfall is already running on {data_dir}; stop it first or choose another --data-dir")
    with ExitStack() as stack:
        stack.callback(lock.release)
        _check_free(ports)
        postgres: EmbeddedPostgres | None = None
        database_url = environment.get("FOOTFALL_DATABASE_URL", "")
        if not database_url:
            try:
                postgres = EmbeddedPostgres(data_dir)
                stack.callback(postgres.stop)
                database_url = postgres.start()
            except (OSError, subprocess.SubprocessError, psycopg.Error) as error:
                raise SuiteError(f"the embedded Postgres did not start: {error}") from error
        migrate_schema(database_url)
        try:
            previous = read_connection_file(data_dir)
        except (OSError, ValueError) as error:
            raise SuiteError(str(error)) from None
        admin_key = environment.get("FOOTFALL_ADMIN_KEY", "") or (
            previous.admin_key if previous else "fa_" + secrets.token_urlsafe(32)
        )
        for_services = {**environment, "FOOTFALL_DATABASE_URL": database_url}
        services = [
            _Service(name, data_dir, dict(for_services), f"127.0.0.1:{port}")
            for name, port in zip(SERVICES, ports, strict=True)
        ]
        services[-1].environment["FOOTFALL_ADMIN_KEY"] = admin_key
        stack.callback(_stop_all, services)
        for service in services:
            service.start()
        for service in services:
            service.wait()
        ingest, query, admin = (service.listen for service in services)
        connection = Connection(ingest, query, admin, admin_key)
        ConnectionFile(ingest, query, admin, admin_key, database_url).write(data_dir)
        stopping = threading.Event()
        watcher = threading.Thread(target=_watch, args=(stopping, postgres, services), daemon=True)
        watcher.start()
        stack.callback(watcher.join)
        stack.callback(stopping.set)
        yield connection


def _check_free(ports: tuple[int, int, int]) -> None:
    for name, port in zip(SERVICES, ports, strict=True):
        with socket.socket() as probe:
            # So that a port with nothing but connections in TIME_WAIT counts as free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                raise SuiteError(
                    f"port {port} of the {name} service cannot be used: {error.strerror}; "
                    "stop what listens there, or choose other ports with --ports INGEST,QUERY,ADMIN (0 = any free one)"
                ) from None


def migrate_schema(database_url: str) -> None:
    """Applies the migrations that are missing. Raises SuiteError with one line if that fails."""
    try:
        db = Database(database_url, application="footfall migrate", pool_size=1, limits=MIGRATION_LIMITS)
    except UrlError as error:
        raise SuiteError(f"the database's URL {error}") from None
    try:
        migrate(db)
    except SchemaError as error:
        raise SuiteError(str(error)) from None
    except DatabaseFault as error:
        raise SuiteError(f"the database cannot be reached or is busy: {_first_line(error)}") from None
    except DBAPIError as error:
        raise SuiteError(
            f"a migration failed and was rolled back; mend the cause and run it again: {_first_line(error)}"
        ) from None
    finally:
        db.close()


def _first_line(error: Exception) -> str:
    """The first line of the error's text. For SQLAlchemy's errors it is that of the driver, without the statement."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return (str(cause).splitlines() or [type(cause).__name__])[0]


def _watch(stopping: threading.Event, postgres: EmbeddedPostgres | None, services: list[_Service]) -> None:
    while not stopping.wait(_WATCH_SECONDS):
        try:
            if postgres is not None and postgres.restart_if_dead():
                _log.warning("Postgres had ended; it runs again")
        except (OSError, RuntimeError, AssertionError, subprocess.SubprocessError) as error:
            _log.warning("Postgres does not start again yet: %s", error)
        for service in services:
            if stopping.is_set():
                return
            try:
                service.restart_if_dead()
            except OSError as error:
                # A full disk or too many open files, for example. The watcher tries again.
                _log.warning("the %s service cannot be started now: %s", service.name, error)


def _stop_all(services: list[_Service]) -> None:
    for service in services:
        service.terminate()
    for service in services:
        service.stop()
