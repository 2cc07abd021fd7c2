"""The address at which Prometheus reads the metrics of a process."""

import os
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry, disable_created_metrics, start_http_server
from prometheus_client.exposition import ThreadingWSGIServer

from common.settings import Settings


def start_metrics(settings: Settings, registry: CollectorRegistry = REGISTRY) -> None:
    """Serves metrics over HTTP in a thread, if the settings name an address. It ends with the process.

    Writes the host:port really served on beside the address file, if there is one. Raises SystemExit with one line if
    the address cannot be listened on.
    """
    if not settings.metrics_listen:
        return
    host, _, port = settings.metrics_listen.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdecimal() or not 0 <= int(port) < 65_536:
        raise SystemExit(
            f"FOOTFALL_METRICS_LISTEN: {settings.metrics_listen} is no address to listen on; "
            "give host:port, with a port of 0-65535"
        )
    # The times at which counters were made would be as many series again.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    # The successor of a process that hands over serves at the same address, before that one has left.
    ThreadingWSGIServer.allow_reuse_port = settings.shared_port
    try:
        server, _thread = start_http_server(int(port), host, registry)
    except OSError as error:
        raise SystemExit(
            f"FOOTFALL_METRICS_LISTEN: {settings.metrics_listen} cannot be listened on: {error.strerror}"
        ) from None
    if settings.address_file:
        shown = f"[{host}]" if ":" in host else host
        # Written aside and renamed, so that a reader never sees a part of it.
        file = metrics_file(settings.address_file)
        partial = file.with_suffix(".partial-metrics")
        partial.write_text(f"{shown}:{server.server_port}")
        os.replace(partial, file)


def metrics_file(address_file: Path) -> Path:
    """The file into which a process with this address file writes where its metrics are."""
    return address_file.with_suffix(".metrics")
