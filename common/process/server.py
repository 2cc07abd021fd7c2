"""Builds, serves and drains a gRPC server, in the same way for all three services."""

import asyncio
import gc
import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

import grpc
from grpc_channelz.v1 import channelz, channelz_pb2_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from common.calls.boundary import Authenticate, Boundary, Rules, UnknownRpcs
from common.calls.messages import MessageLimits, MessageTimes
from common.calls.places import Places
from common.clock import system_clock
from common.db import Database
from common.process.handover import hand_over
from common.process.readiness import Readiness
from common.process.reflection import CommentedPool
from common.process.signals import told
from common.process.tls import credentials_of, is_loopback
from common.settings import Settings
from common.telemetry.call_log import log_calls
from common.telemetry.exposition import start_metrics

_log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 256 * 1024
"""How large a request may be that holds no events."""

_KEYLESS_PLACES = 200
"""How many calls without a key (health, reflection, channelz) may be under way at once, and how many streams."""
_KEYLESS_TIMES = MessageTimes(first_seconds=10, idle_seconds=30, age_seconds=300)
"""Of reflection. A watch of health reads one message and then lasts as long as its client wants."""

_OPTIONS = [
    # Far above the services' own limits, so that they refuse a message that is too large, with a reason.
    ("grpc.max_receive_message_length", 32 * 1024 * 1024),
    ("grpc.max_send_message_length", -1),
    # How many calls may wait for the event loop to take them. Above the first number gRPC drops calls by chance, above
    # the second all: their clients see CANCELLED, which they do not try again. A call that waits takes some KB.
    ("grpc.server.max_pending_requests", 10_000),
    ("grpc.server.max_pending_requests_hard_limit", 20_000),
    # A dead host is noticed on idle connections too, by the server and by clients that ping.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    # Connections that never become HTTP/2, or have no call, are not kept.
    ("grpc.server_handshake_timeout_ms", 20_000),
    ("grpc.max_connection_idle_ms", 3_600_000),
]

MAX_CONNECTION_AGE = "grpc.max_connection_age_ms"
"""Only for workers: what a handover waits for. The limit is blurred by a tenth; streams may last longer."""

Register = Callable[[grpc.aio.Server], None]


async def _nothing() -> None:
    return None


@dataclass(frozen=True)
class Service:
    """One of the services, as a process serves it."""

    name: str
    """Its full name."""
    port: int
    """Used unless the settings name an address."""
    register: Register
    authenticate: Authenticate
    limits: MessageLimits
    on_stop: Callable[[], Awaitable[None]] = _nothing
    """Awaited after the last call."""
    on_drain: Callable[[], None] = lambda: None
    """Called when no new call is taken any more."""


def build_server(settings: Settings, service: Service, address: str) -> tuple[grpc.aio.Server, Any]:
    """A server with the service, reflection, health and, if the settings let it, channelz, not yet listening on
    `address`."""
    show_channels = is_loopback(address) if settings.channelz is None else settings.channelz
    server = grpc.aio.server(
        options=[
            *_OPTIONS,
            ("grpc.enable_channelz", int(show_channels)),
            # Off by default: two servers started at one address by mistake would each get a part of its calls.
            ("grpc.so_reuseport", int(settings.shared_port)),
            *([(MAX_CONNECTION_AGE, round(settings.connection_age_seconds * 1000))] if settings.shared_port else []),
        ],
    )
    times = MessageTimes(settings.first_message_seconds, settings.stream_idle_seconds, settings.stream_age_seconds)
    places = Places(settings.max_calls)
    rules = Rules(places, places, service.limits, times, service.authenticate)
    service.register(cast(grpc.aio.Server, Boundary(server, rules)))
    # Places of their own: whether a process lives must be told while a flood fills the others.
    keyless = Rules(Places(_KEYLESS_PLACES), Places(_KEYLESS_PLACES), MessageLimits(MAX_REQUEST_BYTES), _KEYLESS_TIMES)
    guarded = cast(Any, Boundary(server, keyless))
    health_servicer = cast(Any, health).aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, guarded)
    names = [service.name, health.SERVICE_NAME, reflection.SERVICE_NAME]
    if show_channels:
        channelz_pb2_grpc.add_ChannelzServicer_to_server(cast(Any, channelz).aio.ChannelzServicer(), guarded)
        names.append("grpc.channelz.v1.Channelz")
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
        cast(Any, reflection).aio.ReflectionServicer(names, pool=CommentedPool()), guarded
    )
    server.add_generic_rpc_handlers((UnknownRpcs(),))
    return server, health_servicer


async def serve(settings: Settings, service: Service, db: Database) -> None:
    """Serves until SIGTERM, SIGINT or the end of the parent. Then calls `on_drain`, waits for calls under way and
    awaits `on_stop`. A worker (`shared_port`) that gets SIGHUP first leaves the port to the others, without a failed
    call.

    Health has two names: "" is SERVING as long as the process lives, the service's full name while the database answers
    and has the schema that this release needs. Raises SystemExit with one line if the address cannot be listened on or
    the schema of `db` is another one.
    """
    # First, so that a signal that comes during the start is handled too.
    stop, hangup = told(stop_with_parent=settings.stop_with_parent)
    log_calls(settings.log_calls)
    start_metrics(settings)
    readiness = Readiness(db)
    ready = await readiness.check_at_start()
    address = settings.listen or f"127.0.0.1:{service.port}"
    server, health_servicer = build_server(settings, service, address)
    host, port = address.rpartition(":")[0], _listen(server, address, settings)
    # Calls and chunks make tens of thousands of tuples and hardly any cycle. The search for cycles took a fifth of the
    # time.
    gc.freeze()
    gc.set_threshold(200_000, 20, 20)
    await server.start()

    async def tell(is_ready: bool) -> None:
        states = health_pb2.HealthCheckResponse
        await health_servicer.set(service.name, states.SERVING if is_ready else states.NOT_SERVING)

    await health_servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    await tell(ready)
    watching = asyncio.create_task(readiness.watch(tell))
    announce(settings, f"{host}:{port}")
    _log.info("%s serves on %s:%d", service.name, host, port)
    if settings.shared_port:
        await hand_over(service.name, port, settings.connection_age_seconds, hangup, stop)
    else:
        await stop.wait()
    watching.cancel()
    _log.info("%s drains", service.name)
    await health_servicer.enter_graceful_shutdown()
    service.on_drain()
    await server.stop(settings.drain_seconds)
    await service.on_stop()


def announce(settings: Settings, address: str) -> None:
    """Writes the address file, if the settings name one. It says that calls are answered from now on."""
    if settings.address_file:
        # Written aside and renamed, so that a reader never sees a part of it.
        partial = settings.address_file.with_suffix(".partial")
        partial.write_text(address)
        os.replace(partial, settings.address_file)


def _listen(server: grpc.aio.Server, address: str, settings: Settings) -> int:
    port = address.rpartition(":")[2]
    # gRPC takes the number modulo 65,536.
    if not port.isdecimal() or not 0 <= int(port) < 65_536:
        raise SystemExit(f"{address} is no address to listen on; give host:port, with a port of 0-65535")
    credentials = credentials_of(settings, system_clock)
    if credentials is None and not is_loopback(address):
        _log.warning(
            "%s can be reached from other machines, in plain text: keys can be read on the network. "
            "Set FOOTFALL_TLS_CERTIFICATE and FOOTFALL_TLS_KEY unless a proxy speaks TLS",
            address,
        )
    try:
        if credentials is not None:
            return server.add_secure_port(address, credentials)
        return server.add_insecure_port(address)
    except RuntimeError:
        raise SystemExit(f"{address} cannot be listened on; is another process there?") from None
