"""Everything on one machine: Postgres, the three services, and a watcher that restarts them."""

import logging
import os
import secrets
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import fasteners
import psycopg
from sqlalchemy.exc import DBAPIError

from cli.client_tls import OFF, SYSTEM, ClientTls
from cli.connection import Connection
from cli.connection_file import ConnectionFile, read_connection_file
from cli.embedded_postgres import EmbeddedPostgres
from cli.metrics_targets import write_targets
from cli.service import Service, SuiteError
from common.clock import system_clock
from common.database_url import UrlError
from common.db import Database, DatabaseFault
from common.migrate import MIGRATION_LIMITS, migrate
from common.process.tls import CertificateError, TlsFiles, is_self_signed, name_for
from common.process.workers import held_port
from common.schema_revision import SchemaError

_log = logging.getLogger(__name__)

SERVICES = ("ingest", "query", "admin")
DEFAULT_PORTS = (50051, 50052, 50053)

_WATCH_SECONDS = 0.5
_HOST = "127.0.0.1"


@contextmanager
def running_suite(
    data_dir: Path,
    ports: tuple[int, int, int] = DEFAULT_PORTS,
    environment: Mapping[str, str] = os.environ,
    upgrade: threading.Event | None = None,
    metrics_ports: tuple[int, int, int] = (0, 0, 0),
) -> Iterator[Connection]:
    """Starts everything on `data_dir` and yields a connection to it. On exit everything is drained and stopped.

    Port 0 takes a free one. `environment` is the environment of the services. The database is that of its
    FOOTFALL_DATABASE_URL, else an embedded one. Whenever `upgrade` is set, the services are replaced one after the
    other, without a failed call. Raises SuiteError if the folder is in use or a service does not start.
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
        tls = _client_tls(environment)
        held = [stack.enter_context(_held(name, port)) for name, port in zip(SERVICES, ports, strict=True)]
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
            Service(name, data_dir, dict(for_services), port, f"{_HOST}:{metrics_port}")
            for name, port, metrics_port in zip(SERVICES, held, metrics_ports, strict=True)
        ]
        services[-1].environment["FOOTFALL_ADMIN_KEY"] = admin_key
        stack.callback(_stop_all, services)
        for service in services:
            service.start()
        for service in services:
            service.wait()
        ingest, query, admin = (service.listen for service in services)
        known = (tls.ca, tls.certificate, tls.key, tls.server_name)
        connection = Connection(ingest, query, admin, admin_key, *known)
        file = ConnectionFile(ingest, query, admin, admin_key, database_url, *known)
        write_targets(data_dir, {service.name: service.metrics for service in services})
        file.write(data_dir)
        stopping = threading.Event()
        watchers = [threading.Thread(target=_watch_services, args=(stopping, services, upgrade), daemon=True)]
        if postgres is not None:
            # A service that starts waits for the database, so Postgres must not wait for a service.
            watchers.append(threading.Thread(target=_watch_postgres, args=(stopping, postgres), daemon=True))
        for watcher in watchers:
            watcher.start()
            stack.callback(watcher.join)
        stack.callback(stopping.set)
        yield connection


def _client_tls(environment: Mapping[str, str]) -> ClientTls:
    """How commands on this machine reach services that are started with this environment. Raises SuiteError for
    certificates that cannot be used."""
    certificate, key = (environment.get(f"FOOTFALL_TLS_{name}", "") for name in ("CERTIFICATE", "KEY"))
    if not certificate or not key:
        return ClientTls()
    ca = environment.get("FOOTFALL_TLS_CLIENT_CA", "")
    path = Path(certificate).absolute()
    try:
        TlsFiles(path, Path(key), Path(ca) if ca else None).read(system_clock)
        authority = str(path) if is_self_signed(path) else SYSTEM
        server_name = name_for(path, _HOST)
    except CertificateError as error:
        raise SuiteError(str(error)) from None
    given = {
        name: environment.get(f"FOOTFALL_TLS_{name}", "")
        for name in ("CA", "CLIENT_CERTIFICATE", "CLIENT_KEY", "SERVER_NAME")
    }
    # The commands may be run in another folder.
    paths = {name: str(Path(path).absolute()) if path else "" for name, path in given.items()}
    return ClientTls(
        given["CA"] if given["CA"] in (SYSTEM, OFF) else paths["CA"] or authority,
        paths["CLIENT_CERTIFICATE"],
        paths["CLIENT_KEY"],
        given["SERVER_NAME"] or server_name,
    )


def _held(name: str, port: int) -> socket.socket:
    try:
        return held_port(f"{_HOST}:{port}")
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


def _watch_postgres(stopping: threading.Event, postgres: EmbeddedPostgres) -> None:
    while not stopping.wait(_WATCH_SECONDS):
        try:
            if postgres.restart_if_dead():
                _log.warning("Postgres had ended; it runs again")
        except (OSError, RuntimeError, AssertionError, subprocess.SubprocessError) as error:
            _log.warning("Postgres does not start again yet: %s", error)


def _watch_services(stopping: threading.Event, services: list[Service], upgrade: threading.Event | None) -> None:
    waiting: list[Service] = []
    while not stopping.wait(_WATCH_SECONDS):
        for service in services:
            if stopping.is_set():
                return
            try:
                service.restart_if_dead()
            except OSError as error:
                # A full disk or too many open files, for example. The watcher tries again.
                _log.warning("the %s service cannot be started now: %s", service.name, error)
        if upgrade is not None and upgrade.is_set():
            upgrade.clear()
            waiting = list(services)
        # One after the other: the next begins when the one before has left.
        if waiting and not stopping.is_set() and not any(service.leaving for service in services):
            waiting = _replace(waiting)


def _replace(waiting: list[Service]) -> list[Service]:
    """Replaces the process of the first service. Returns the services that wait for theirs; none if that failed."""
    service, *others = waiting
    try:
        service.hand_over()
    except (SuiteError, OSError) as error:
        _log.error("the %s service stays as it is, and those after it too: %s", service.name, error)
        return []
    _log.warning("the %s service has been replaced", service.name)
    return others


def _stop_all(services: list[Service]) -> None:
    for service in services:
        service.terminate()
    for service in services:
        service.stop()
