"""A worker that hands over returns from its wait only when no call can arrive any more."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health  # type: ignore[attr-defined]  # the package lists it at runtime

from common.process import listeners
from common.process.handover import hand_over
from common.process.server import MAX_CONNECTION_AGE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux spreads connections over sockets of one port")
AGE_SECONDS = 3.0


@asynccontextmanager
async def serving() -> AsyncIterator[int]:
    """A server on a shared port, whose connections grow old soon."""
    server = grpc.aio.server(
        options=[("grpc.so_reuseport", 1), (MAX_CONNECTION_AGE, round(1000 * AGE_SECONDS))],
    )
    health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield port
    await server.stop(0)


SUCCESSOR = """
import socket, sys
made = socket.socket(socket.AF_INET6)
made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
made.bind(("::ffff:127.0.0.1", int(sys.argv[1])))
made.listen()
print("listens", flush=True)
sys.stdin.read()
"""


@contextmanager
def successor(port: int) -> Iterator[None]:
    """Another process that listens on the port."""
    command = [sys.executable, "-c", SUCCESSOR, str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"listens\n"
        yield
        process.communicate()


def test_it_waits_until_its_connections_have_ended_and_nothing_listens() -> None:
    """Also where the client does nothing: it is told to open another connection."""

    async def leave() -> None:
        hangup, stop = asyncio.Event(), asyncio.Event()
        async with serving() as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert listeners.connections(port) == 1
            with successor(port):
                hangup.set()
                await hand_over("test", port, AGE_SECONDS, hangup, stop)
            assert listeners.connections(port) == 0
            assert listeners.listening(port) == []

    asyncio.run(leave())


def test_told_to_stop_it_returns_at_once() -> None:
    """Whether or not it was told to hand over before."""

    async def leave(*, hung_up: bool) -> None:
        hangup, stop = asyncio.Event(), asyncio.Event()
        stop.set()
        if hung_up:
            hangup.set()
        async with serving() as port:
            await asyncio.wait_for(hand_over("test", port, 1_000.0, hangup, stop), 30)
            assert len(listeners.listening(port)) == 1

    for hung_up in (False, True):
        asyncio.run(leave(hung_up=hung_up))
