"""The listening sockets of a process whose port is shared (SO_REUSEPORT), and how one leaves without a lost connection.

gRPC closes its listening socket only together with the whole server, and Linux then resets every connection that
waits to be accepted there. So new connections are led to another process first, with a filter on the group of sockets
that share the port (SO_ATTACH_REUSEPORT_CBPF); what waits is accepted; then the socket is closed below gRPC.
"""

import ctypes
import os
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ATTACH_FILTER = 51
"""SO_ATTACH_REUSEPORT_CBPF of Linux, which the socket module does not name."""
_RETURN_CONSTANT = 0x06
"""BPF_RET | BPF_K."""
_WAITING_TO_BE_ACCEPTED = 24
"""Where tcp_info has the length of a listening socket's queue (tcpi_unacked)."""
_LISTEN = "0A"


def listening(port: int) -> list[int]:
    """The file descriptors of this process that listen on the port."""
    return [number for number, found in _sockets(port) if _listens(found)]


def connections(port: int) -> int:
    """How many connections to the port this process has accepted and not closed."""
    return sum(not _listens(found) for _, found in _sockets(port))


def lead_away(number: int) -> None:
    """From now on new connections go to the socket that began to listen on the same address last.

    Of n sockets, that is number n - 1 of their group. Once one of them is closed there is no such number, and Linux
    spreads connections over all again. Raises OSError where the system cannot do that or no other socket listens.
    """
    newest = _sharing(number) - 1
    if newest < 1:
        raise OSError("no other process listens on the port")
    instruction = ctypes.create_string_buffer(struct.pack("HBBI", _RETURN_CONSTANT, 0, 0, newest))
    with _duplicate(number) as found:
        found.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(instruction)))


def waiting(number: int) -> int:
    """How many connections wait to be accepted."""
    with _duplicate(number) as found:
        info = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int(struct.unpack_from("=I", info, _WAITING_TO_BE_ACCEPTED)[0])


def close(number: int) -> None:
    """Closes the listening socket; its descriptor, which gRPC will close later, is one of an unused socket then."""
    with _duplicate(number) as found:
        unused = socket.socket(found.family, socket.SOCK_STREAM)
    with unused:
        os.dup2(unused.fileno(), number, inheritable=False)


def _sharing(number: int) -> int:
    """How many sockets listen on the address of this one."""
    inode = str(os.fstat(number).st_ino)
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        # Columns: 1 = local address, 3 = state, 9 = inode.
        rows = [line.split() for line in Path(table).read_text().splitlines()[1:]]
        listeners = [(row[1], row[9]) for row in rows if row[3] == _LISTEN]
        for address, of in listeners:
            if of == inode:
                return sum(other == address for other, _ in listeners)
    raise OSError("the socket is in no table of the system")


def _sockets(port: int) -> Iterator[tuple[int, socket.socket]]:
    """The descriptors of TCP sockets of this process with this local port, each with a duplicate."""
    for name in os.listdir("/dev/fd"):
        try:
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            with _duplicate(int(name)) as found:
                inet = found.family in (socket.AF_INET, socket.AF_INET6) and found.type == socket.SOCK_STREAM
                if inet and found.getsockname()[1] == port:
                    yield int(name), found
        except OSError:
            # It was closed meanwhile.
            continue


def _listens(found: socket.socket) -> bool:
    return bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


@contextmanager
def _duplicate(number: int) -> Iterator[socket.socket]:
    with socket.socket(fileno=os.dup(number)) as found:
        yield found
