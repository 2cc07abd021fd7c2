"""Builds, serves and drains a gRPC server, in the same way for all three services."""

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any, cast

import grpc
from grpc_channelz.v1 import channelz
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from common.db import Database
from common.error_boundary import ErrorBoundary
from common.log_repeats import count_repeats
from common.readiness import Readiness
from common.reflection import CommentedPool
from common.settings import Settings

_log = logging.getLogger(__name__)

MAX_RECEIVE_BYTES = 32 * 1024 * 1024
"""Far above the services' own limits, so that they refuse a message that is too large, with a reason."""

MAX_CONCURRENT_RPCS = 1_000
"""Over it gRPC answers RESOURCE_EXHAUSTED; open streams count."""

_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_RECEIVE_BYTES),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_channelz", 1),
    # A dead host is noticed on idle connections too, by the server and by clients that ping.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
]

Register = Callable[[grpc.aio.Server], None]
OnStop = Callable[[], Awaitable[None]]


def build_server(service: str, register: Register, *, shared_port: bool = False) -> tuple[grpc.aio.Server, Any]:
    """A server with `service` (full name), reflection, health and channelz, not yet listening."""
    server = grpc.aio.server(
        # Off by default: two servers started at one address by mistake would each get a part of its calls.
        options=[*_OPTIONS, ("grpc.so_reuseport", int(shared_port))],
        maximum_concurrent_rpcs=MAX_CONCURRENT_RPCS,
    )
    register(cast(grpc.aio.Server, ErrorBoundary(server)))
    health_servicer = cast(Any, health).aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    channelz.add_channelz_servicer(cast(Any, server))
    names = (service, health.SERVICE_NAME, "grpc.channelz.v1.Channelz", reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server, pool=cast(Any, CommentedPool()))
    return server, health_servicer


async def serve(
    settings: Settings,
    service: str,
    port: int,
    register: Register,
    on_stop: OnStop,
    db: Database,
    on_drain: Callable[[], None] = lambda: None,
) -> None:
    """Serves until SIGTERM, SIGINT or the end of the parent. Then calls `on_drain`, waits for calls under way and
    awaits `on_stop`.

    `port` is used unless the settings name an address. Health has two names: "" is SERVING as long as the process
    lives, the service's full name while the database answers and has the schema that this release needs. Raises
    SystemExit with one line if the address cannot be listened on or the schema of `db` is another one.
    """
    # First, so that a signal that comes during the start is handled too.
    stop = told_to_stop(settings)
    readiness = Readiness(db)
    ready = await readiness.check_at_start()
    server, health_servicer = build_server(service, register, shared_port=settings.shared_port)
    address = settings.listen or f"127.0.0.1:{port}"
    host, port = address.rpartition(":")[0], _listen(server, address, settings)
    # Calls and chunks make tens of thousands of tuples and hardly any cycle. The search for cycles took a fifth of the
    # time.
    gc.freeze()
    gc.set_threshold(200_000, 20, 20)
    await server.start()

    async def tell(is_ready: bool) -> None:
        states = health_pb2.HealthCheckResponse
        await health_servicer.set(service, states.SERVING if is_ready else states.NOT_SERVING)

    await health_servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    await tell(ready)
    watching = asyncio.create_task(readiness.watch(tell))
    announce(settings, f"{host}:{port}")
    _log.info("%s serves on %s:%d", service, host, port)
    await stop.wait()
    watching.cancel()
    _log.info("%s drains", service)
    await health_servicer.enter_graceful_shutdown()
    on_drain()
    await server.stop(settings.drain_seconds)
    await on_stop()


def announce(settings: Settings, address: str) -> None:
    """Writes the address file, if the settings name one. It says that calls are answered from now on."""
    if settings.address_file:
        # Written aside and renamed, so that a reader never sees a part of it.
        partial = settings.address_file.with_suffix(".partial")
        partial.write_text(address)
        os.replace(partial, settings.address_file)


def configure_logging(settings: Settings) -> None:
    """One line per message on standard error; warnings that repeat are counted."""
    logging.basicConfig(
        stream=sys.stderr, level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    for handler in logging.getLogger().handlers:
        count_repeats(handler)
    # It warns at every tick at which the last run is still at work. That is normal for a busy job.
    logging.getLogger("apscheduler").setLevel(logging.ERROR)


def _listen(server: grpc.aio.Server, address: str, settings: Settings) -> int:
    port = address.rpartition(":")[2]
    # gRPC takes the number modulo 65,536.
    if not port.isdecimal() or not 0 <= int(port) < 65_536:
        raise SystemExit(f"{address} is no address to listen on; give host:port, with a port of 0-65535")
    try:
        if settings.tls_certificate and settings.tls_key:
            pair = (settings.tls_key.read_bytes(), settings.tls_certificate.read_bytes())
            return server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
        return server.add_insecure_port(address)
    except RuntimeError:
        raise SystemExit(f"{address} cannot be listened on; is another process there?") from None


def told_to_stop(settings: Settings) -> asyncio.Event:
    """An event that is set by SIGTERM, by SIGINT and, if the settings say so, by the end of standard input."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if settings.stop_with_parent:
        # The pipe from the parent is closed however the parent ends, on every system.
        stdin = sys.stdin.fileno()

        def read() -> None:
            if not os.read(stdin, 1024):
                loop.remove_reader(stdin)
                stop.set()

        loop.add_reader(stdin, read)
    return stop
