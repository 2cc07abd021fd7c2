"""The addresses of a running Footfall, and how the commands call it."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast

import grpc
import typer
from footfall.admin.v1.admin_pb2_grpc import AdminServiceStub
from footfall.ingest.v1.ingest_pb2_grpc import IngestServiceStub
from footfall.query.v1.query_pb2_grpc import QueryServiceStub
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from cli.client_tls import ClientTls
from cli.connection_file import FILE_NAME, read_connection_file
from common.database_url import UrlError, plain_url

DEFAULT_DATA_DIR = Path(".footfall")
CALL_TIMEOUT_SECONDS = 60.0

DataDir = Annotated[
    Path,
    typer.Option("--data-dir", envvar="FOOTFALL_DATA_DIR", help="Data folder of the running `footfall up`."),
]

_ENVIRONMENT = {
    "ingest": "FOOTFALL_INGEST",
    "query": "FOOTFALL_QUERY",
    "admin": "FOOTFALL_ADMIN",
    "admin_key": "FOOTFALL_ADMIN_KEY",
    "tls_ca": "FOOTFALL_TLS_CA",
    "tls_client_certificate": "FOOTFALL_TLS_CLIENT_CERTIFICATE",
    "tls_client_key": "FOOTFALL_TLS_CLIENT_KEY",
    "tls_server_name": "FOOTFALL_TLS_SERVER_NAME",
}

# gRPC itself allows 5 attempts at most. Only calls that may be done twice are retried: a second CreateSite would fail,
# and the write key of the first would be lost. A stream is not retried here, because gRPC does not know which of its
# requests were answered.
_RETRIED_ADMIN_RPCS = (
    "EnsureSite",
    "GetSite",
    "ListSites",
    "ListApiKeys",
    "RevokeApiKey",
    "AggregatePending",
    "RebuildSite",
    "RetryFailedEvents",
    "CompactRollups",
    "CleanupSite",
    "PruneExpired",
    "EraseVisitor",
    "GetStatus",
)
_RETRY_UNAVAILABLE = json.dumps(
    {
        "methodConfig": [
            {
                "name": [
                    {"service": "footfall.query.v1.QueryService"},
                    *({"service": "footfall.admin.v1.AdminService", "method": name} for name in _RETRIED_ADMIN_RPCS),
                ],
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "0.2s",
                    "maxBackoff": "5s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)


@dataclass(frozen=True, slots=True)
class Connection:
    """The `host:port` addresses of the three services, an admin key, and how to speak TLS; "" = not known, or not."""

    ingest: str = ""
    query: str = ""
    admin: str = ""
    admin_key: str = field(default="", repr=False)
    tls_ca: str = ""
    tls_client_certificate: str = ""
    tls_client_key: str = ""
    tls_server_name: str = ""

    @property
    def tls(self) -> ClientTls:
        """How to speak TLS."""
        return ClientTls(self.tls_ca, self.tls_client_certificate, self.tls_client_key, self.tls_server_name)

    @classmethod
    def read(cls, data_dir: Path, environment: Mapping[str, str] = os.environ) -> "Connection":
        """The values of `data_dir/footfall.json`, each overridden by its FOOTFALL_* variable.

        Without the file, one variable is enough: the installation is then a remote one. Raises typer.Exit(1) if there
        is neither, or if the file cannot be read.
        """
        overrides = {name: environment[key] for name, key in _ENVIRONMENT.items() if environment.get(key)}
        try:
            known = read_connection_file(data_dir)
        except (OSError, ValueError) as error:
            raise fail(str(error)) from None
        if known is None and not overrides:
            raise fail(f"footfall is not running here; start it with `footfall up` (no {data_dir / FILE_NAME})")
        connection = cls(**{name: getattr(known, name) for name in _ENVIRONMENT}) if known else cls()
        return replace(connection, **overrides)

    @contextmanager
    def open_query(self) -> Iterator[QueryServiceStub]:
        """A stub that sends the admin key. For a gRPC error in the block prints it and raises typer.Exit(1)."""
        with _channel(self._need("query"), self._need("admin_key"), self.tls) as channel:
            yield QueryServiceStub(channel)

    @contextmanager
    def open_admin(self) -> Iterator[AdminServiceStub]:
        """A stub that sends the admin key. For a gRPC error in the block prints it and raises typer.Exit(1)."""
        with _channel(self._need("admin"), self._need("admin_key"), self.tls) as channel:
            yield AdminServiceStub(channel)

    @contextmanager
    def open_ingest(self) -> Iterator[IngestServiceStub]:
        """A stub without a key, because a write key goes with each call. Raises as the others do."""
        with _channel(self._need("ingest"), "", self.tls) as channel:
            yield IngestServiceStub(channel)

    def _need(self, name: str) -> str:
        value = cast(str, getattr(self, name))
        if not value:
            raise fail(f"{_ENVIRONMENT[name]} is not set, and there is no footfall.json with its value")
        return value


def database_url(data_dir: Path) -> str:
    """FOOTFALL_DATABASE_URL, else the URL of the running suite's database, as psycopg takes it. Raises typer.Exit(1)
    without either, and for one that names no database."""
    url = os.environ.get("FOOTFALL_DATABASE_URL", "")
    if not url:
        try:
            known = read_connection_file(data_dir)
        except (OSError, ValueError) as error:
            raise fail(str(error)) from None
        url = known.database_url if known else ""
    if not url:
        raise fail("set FOOTFALL_DATABASE_URL, or name the --data-dir of a running `footfall up`")
    try:
        return plain_url(url)
    except UrlError as error:
        raise fail(f"FOOTFALL_DATABASE_URL {error}") from None


def fail(message: str) -> typer.Exit:
    """Prints one line to standard error and returns the exception to raise."""
    typer.echo(printable(message), err=True)
    return typer.Exit(1)


def printable(text: str) -> str:
    """Makes text from outside safe for a terminal: without escape sequences, line breaks and changes of direction."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def describe(error: grpc.RpcError) -> str:
    """`REASON: message` for Footfall's own errors; for others the status code is the reason."""
    info = error_details_pb2.ErrorInfo()
    status = rich_status(error)
    reason = next((info.reason for detail in status.details if detail.Unpack(info)), "")
    return f"{reason or error.code().name}: {status.message or error.details()}"


def rich_status(error: grpc.RpcError) -> status_pb2.Status:
    """The google.rpc.Status of a failed call; an empty one if the server sent none."""
    try:
        found = rpc_status.from_call(cast(grpc.Call, error))
    except ValueError:  # the trailer and the call's status contradict each other
        found = None
    return found if isinstance(found, status_pb2.Status) else status_pb2.Status()


@contextmanager
def _channel(address: str, key: str, tls: ClientTls) -> Iterator[grpc.Channel]:
    options: list[tuple[str, Any]] = [
        *tls.options(),
        ("grpc.service_config", _RETRY_UNAVAILABLE),
        # So that a server that disappears is noticed, also by a stream, which has no deadline.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
    ]
    try:
        credentials = tls.credentials()
    except ValueError as error:
        raise fail(str(error)) from None
    if credentials is None:
        made = grpc.insecure_channel(address, options=options)
    else:
        made = grpc.secure_channel(address, credentials, options=options)
    try:
        with made as channel:
            yield grpc.intercept_channel(channel, _Authorization(key)) if key else channel
    except grpc.RpcError as error:
        hint = ""
        if error.code() is grpc.StatusCode.UNAVAILABLE and not rich_status(error).details:
            hint = f" ({_hint(address, tls)})"
        raise fail(describe(error) + hint) from None


def _hint(address: str, tls: ClientTls) -> str:
    if not tls.in_use:
        return f"nothing answers at {address} in plain text: is `footfall up` running? For TLS set FOOTFALL_TLS_CA"
    own = "" if tls.certificate else ", and does it want a certificate of yours (FOOTFALL_TLS_CLIENT_CERTIFICATE)?"
    return f"nothing answers at {address} with TLS: does it speak TLS, with a certificate of {tls.ca}{own or '?'}"


class _CallDetails(NamedTuple):
    method: str
    timeout: float | None
    metadata: list[tuple[str, str | bytes]]
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class _Authorization(grpc.UnaryUnaryClientInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Adds the bearer key and a deadline to every unary call."""

    def __init__(self, key: str) -> None:
        self._header = ("authorization", f"Bearer {key}")

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        details = client_call_details
        return continuation(
            _CallDetails(
                details.method,
                CALL_TIMEOUT_SECONDS if details.timeout is None else details.timeout,
                [*(details.metadata or ()), self._header],
                details.credentials,
                details.wait_for_ready,
                details.compression,
            ),
            request,
        )
