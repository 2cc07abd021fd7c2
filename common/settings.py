"""The settings of a service process, read once by its `main`."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from common.connection import PreparedStatements
from common.database_url import plain_url

PREFIX = "FOOTFALL_"


class Settings(BaseSettings):
    """`FOOTFALL_*` environment variables."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    database_url: str = Field(min_length=1, repr=False)
    """A Postgres URL, such as postgresql://user:password@host/footfall, or host=… user=… password=… dbname=…."""

    prepared_statements: PreparedStatements = "auto"
    """Whether statements are prepared in the server. "auto" = only where no pooler stands in between."""

    listen: str = ""
    """host:port to serve on; port 0 takes a free one. "" = 127.0.0.1 and the service's own port."""

    address_file: Path | None = None
    """A file into which the host:port really served on is written once calls are answered."""

    stop_with_parent: bool = False
    """Drain and stop when standard input ends, so that the process does not outlive the one that started it."""

    workers: int = Field(default=0, ge=0)
    """Processes of the service that share its port, under a supervisor; 0 = this process serves by itself."""

    shared_port: bool = False
    """Let other processes listen on the same port; the supervisor sets it for its workers."""

    tls_certificate: Path | None = None
    """PEM file: a certificate and those that lead to its authority. With tls_key, the service speaks TLS only."""

    tls_key: Path | None = None
    """PEM file, without a passphrase."""

    tls_client_ca: Path | None = None
    """PEM file of authorities. Only clients with a certificate that one of them has signed are served (mTLS)."""

    channelz: bool | None = None
    """Whether anybody may ask for the connections and the number of calls (channelz). None = only on loopback."""

    connection_age_seconds: float = Field(default=30.0, gt=0)
    """After so long a worker asks a connection's client for another one, in s. A handover takes about as long."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    log_format: Literal["text", "json"] = "text"

    log_calls: Literal["all", "failed", "none"] = "failed"
    """Which calls have a log line of their own at their end."""

    metrics_listen: str = ""
    """host:port at which Prometheus reads metrics; port 0 takes a free one. "" = nowhere."""

    traces: bool = False
    """Send OpenTelemetry traces; the variables OTEL_… say where and how many."""

    drain_seconds: float = Field(default=10.0, ge=0)
    """How long calls under way may take after SIGTERM, in s."""

    statement_timeout_ms: int = Field(default=30_000, ge=1)
    """How long a statement may run for a caller, in ms."""

    pool_size: int = Field(default=8, ge=1)
    """How many database connections the pool of a process has at most."""

    max_calls: int = Field(default=2_000, ge=2)
    """How many calls a process has under way at most, open streams included. A key may have as many as are free, so
    at most half."""

    first_message_seconds: float = Field(default=30.0, gt=0)
    """How long a call may be open before its first message has come."""

    stream_idle_seconds: float = Field(default=600.0, gt=0)
    """How long a stream may then be open without a message of its client."""

    stream_age_seconds: float = Field(default=3_600.0, gt=0)
    """How long a stream may be open in all."""

    admin_key: str = Field(default="", repr=False)
    """An admin key that the admin process stores at its start, unless it is stored already. The first admin key of an
    installation comes from here."""

    max_batch_events: int = Field(default=500, ge=1, le=10_000)
    """How many events an ingest batch may hold."""

    ingest_queue_events: int = Field(default=40_000, ge=1)
    """How many events wait in an ingest process at most. A site may hold as many as are free: half, if it is alone.
    Over its share its batches are refused and its streams slowed down."""

    ingest_queue_bytes: int = Field(default=64 * 1024 * 1024, ge=1)
    """The same in bytes of memory."""

    aggregate: bool = True
    """Whether the admin process aggregates by itself, without an RPC."""

    schedule: bool = True
    """Whether the admin process runs any job by itself, aggregation included."""

    aggregate_seconds: float = Field(default=0.2, ge=0)
    """Seconds between two runs of aggregation; 0 = the admin process does not run it. The next four are alike."""

    fold_seconds: float = Field(default=10.0, ge=0)
    """Compaction of rollup deltas. Between two runs a key gains at most one delta for each chunk of aggregation."""

    retry_seconds: float = Field(default=3_600.0, ge=0)
    """The retry of dead letters that failed at least an hour ago: each gets three more attempts."""

    cleanup_seconds: float = Field(default=600.0, ge=0)
    """Cleanup: deleting what has passed its retention."""

    prune_seconds: float = Field(default=60.0, ge=0)
    """Pruning: deleting expired dedupe keys."""

    run_seconds: float = Field(default=10.0, gt=0)
    """After so many seconds a run of a job ends, even if there is work left."""

    run_pages: int = Field(default=1_000, ge=1)
    """How many chunks a run of a job does at most."""

    @field_validator("database_url")
    @classmethod
    def _names_a_database(cls, text: str) -> str:
        return plain_url(text)

    @model_validator(mode="after")
    def _whole_pair(self) -> Self:
        # A server with only one of the two would serve in plain text.
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("FOOTFALL_TLS_CERTIFICATE and FOOTFALL_TLS_KEY go together")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("FOOTFALL_TLS_CLIENT_CA needs FOOTFALL_TLS_CERTIFICATE and FOOTFALL_TLS_KEY")
        return self

    @classmethod
    def from_environment(cls) -> "Settings":
        """The settings from the environment. Raises SystemExit with the names of the variables that are not valid."""
        try:
            return cls()  # type: ignore[call-arg]  # the library fills it in
        except ValidationError as error:
            problems = [
                ": ".join((*(f"FOOTFALL_{str(name).upper()}" for name in one["loc"]), one["msg"]))
                for one in error.errors()
            ]
            raise SystemExit("\n".join(problems)) from None
