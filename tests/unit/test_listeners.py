"""New connections are led away from a listening socket before it is closed, and none is lost."""

import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from common.process import listeners

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux spreads connections over sockets of one port")


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def listening(stack: ExitStack, port: int = 0) -> socket.socket:
    """One more socket that listens on the port, as gRPC opens it."""
    made = stack.enter_context(socket.socket(socket.AF_INET6))
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(("::ffff:127.0.0.1", port))
    made.listen(500)
    return made


def port_of(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])


def connect(stack: ExitStack, port: int, times: int) -> list[socket.socket]:
    return [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(times)]


@pytest.mark.parametrize("others", [1, 2, 3])
def test_after_leading_away_new_connections_go_to_the_newest_socket(opened: ExitStack, others: int) -> None:
    """Whichever of the older ones is asked; those that wait already stay where they are."""
    first = listening(opened)
    port = port_of(first)
    connect(opened, port, 3)
    older = [listening(opened, port) for _ in range(others - 1)]
    newest = listening(opened, port)
    listeners.lead_away(first.fileno())
    connect(opened, port, 100)
    assert listeners.waiting(first.fileno()) == 3
    assert [listeners.waiting(one.fileno()) for one in older] == [0] * len(older)
    assert listeners.waiting(newest.fileno()) == 100


def test_once_the_socket_is_closed_connections_are_spread_over_the_others_again(opened: ExitStack) -> None:
    first = listening(opened)
    port = port_of(first)
    second, third = listening(opened, port), listening(opened, port)
    listeners.lead_away(first.fileno())
    listeners.close(first.fileno())
    connect(opened, port, 200)
    waiting = [listeners.waiting(one.fileno()) for one in (second, third)]
    assert sum(waiting) == 200
    assert min(waiting) > 20


def test_a_handover_may_follow_another(opened: ExitStack) -> None:
    """What the one before has set does not stay in the way."""
    current = listening(opened)
    port = port_of(current)
    for _ in range(3):
        successor = listening(opened, port)
        listeners.lead_away(current.fileno())
        listeners.close(current.fileno())
        assert listeners.listening(port) == [successor.fileno()]
        connect(opened, port, 20)
        assert listeners.waiting(successor.fileno()) == 20
        current = successor


def test_a_socket_that_listens_alone_is_not_led_away_from(opened: ExitStack) -> None:
    """Its connections would have nowhere to go."""
    alone = listening(opened)
    with pytest.raises(OSError, match="no other process"):
        listeners.lead_away(alone.fileno())


def test_accepted_connections_are_counted_until_they_are_closed(opened: ExitStack) -> None:
    listener = listening(opened)
    port = port_of(listener)
    connect(opened, port, 2)
    accepted = [opened.enter_context(listener.accept()[0]) for _ in range(2)]
    assert listeners.connections(port) == 2
    accepted[0].close()
    assert listeners.connections(port) == 1
