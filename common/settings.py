"""The settings of a service process, read once by its `main`."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """`FOOTFALL_*` environment variables."""

    model_config = SettingsConfigDict(env_prefix="FOOTFALL_", frozen=True)

    database_url: str = Field(min_length=1)
    """A Postgres URL, such as postgresql://user:password@host/footfall."""

    listen: str = ""
    """host:port to serve on; port 0 takes a free one. "" = 127.0.0.1 and the service's own port."""

    address_file: Path | None = None
    """Where to write the host:port really served on, once calls are answered."""

    stop_with_parent: bool = False
    """Drain and stop when standard input ends, so that no process outlives the one that started it."""

    workers: int = Field(default=1, ge=1)
    """Processes of the service that share its port."""

    shared_port: bool = False
    """Let other processes listen on the same port; the supervisor sets it for its workers."""

    tls_certificate: Path | None = None
    """PEM file; with tls_key, the service speaks TLS only."""

    tls_key: Path | None = None
    """PEM file."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    drain_seconds: float = Field(default=10.0, ge=0)
    """How long calls under way may take after SIGTERM."""

    statement_timeout_ms: int = Field(default=30_000, ge=1)
    """Longest a statement may run for a caller, in ms."""

    pool_size: int = Field(default=8, ge=1)
    """Database connections a process keeps at most."""

    admin_key: str = ""
    """An admin key that the admin process stores at its start unless it is known; how the first one comes in."""

    max_batch_events: int = Field(default=500, ge=1, le=10_000)
    """Events one ingest batch may hold."""

    ingest_queue_events: int = Field(default=20_000, ge=1)
    """Events an ingest process holds in memory before it pushes back."""

    aggregate: bool = True
    """Whether the admin process aggregates by itself."""

    schedule: bool = True
    """Whether the admin process runs any job by itself, aggregation included."""

    aggregate_seconds: float = Field(default=0.2, ge=0)
    """How often the admin process aggregates, in s; as for the next four, 0 = not by itself."""

    fold_seconds: float = Field(default=10.0, ge=0)
    """How often it compacts rollup deltas. Meanwhile a key gains at most one delta for each chunk of aggregation."""

    retry_seconds: float = Field(default=3_600.0, ge=0)
    """How often it gives dead letters of an hour ago or earlier another three attempts."""

    cleanup_seconds: float = Field(default=600.0, ge=0)
    """How often it deletes what has passed its retention."""

    prune_seconds: float = Field(default=60.0, ge=0)
    """How often it deletes expired dedupe keys."""

    run_seconds: float = Field(default=10.0, gt=0)
    """The longest that one run of a job takes while there is work, in s."""

    run_pages: int = Field(default=1_000, ge=1)
    """How many chunks one run of a job does at most."""

    @model_validator(mode="after")
    def _whole_pair(self) -> Self:
        # Half a pair must not come up in plain text.
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("FOOTFALL_TLS_CERTIFICATE and FOOTFALL_TLS_KEY go together")
        return self

    @classmethod
    def from_environment(cls) -> "Settings":
        """What the environment says. Raises SystemExit, naming the variables, when that makes no sense."""
        try:
            return cls()  # type: ignore[call-arg]  # the library fills it in
        except ValidationError as error:
            problems = [
                ": ".join((*(f"FOOTFALL_{str(name).upper()}" for name in one["loc"]), one["msg"]))
                for one in error.errors()
            ]
            raise SystemExit("\n".join(problems)) from None
