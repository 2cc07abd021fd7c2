"""Runs a service in several processes that share its port, because the interpreter's lock limits a single one."""

import argparse
import asyncio
import logging
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from common.server import announce, configure_logging, told_to_stop
from common.settings import Settings
from common.variables import unknown_variables

_log = logging.getLogger(__name__)

_POLL_SECONDS = 0.05
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0
_GRACE_SECONDS = 5.0
"""How long a worker may take beyond its time to drain before it is killed."""


def run(package: str, port: int, main: Callable[[Settings], Coroutine[Any, Any, None]]) -> None:
    """Runs `python -m <package>`: `main` in this process, or with `--workers N` (FOOTFALL_WORKERS) in N processes.

    Raises SystemExit with a line that says why, for settings that are not valid and for an address that is taken.
    """
    settings = Settings.from_environment()
    parser = argparse.ArgumentParser(prog=f"python -m {package}")
    parser.add_argument("--workers", type=int, default=settings.workers, help="processes that share the port")
    workers = parser.parse_args().workers
    if workers < 1:
        parser.error("--workers must be at least 1")
    configure_logging(settings)
    for line in unknown_variables(os.environ):
        _log.warning("%s", line)
    if workers == 1:
        asyncio.run(main(settings))
    else:
        asyncio.run(_supervise(package, settings.listen or f"127.0.0.1:{port}", settings, workers))


class _Worker:
    """One of the processes. It is a fresh interpreter, because gRPC does not survive a fork."""

    def __init__(self, package: str, address: str, address_file: Path) -> None:
        self._package = package
        self._address = address
        self._address_file = address_file
        self._pause = _FIRST_PAUSE
        self._process = self._start()

    @property
    def answers(self) -> bool:
        """Whether the process answers calls yet."""
        return self._address_file.exists()

    async def keep_alive(self) -> None:
        """Starts the process again whenever it ends. The pause doubles, up to 10 s, while it ends before it answers."""
        while True:
            while self._process.poll() is None:
                await asyncio.sleep(_POLL_SECONDS)
            self._pause = _FIRST_PAUSE if self.answers else min(2 * self._pause, _LONGEST_PAUSE)
            ended = (self._process.pid, self._process.returncode, self._pause)
            _log.warning("worker %d ended with %d; starting another in %.1f s", *ended)
            self._address_file.unlink(missing_ok=True)
            await asyncio.sleep(self._pause)
            try:
                self._process = self._start()
            except OSError as error:
                # Too many processes or open files: the next round tries again.
                _log.warning("no worker can be started now: %s", error)

    def terminate(self) -> None:
        """Tells the process to drain and end."""
        if self._process.poll() is None:
            self._process.terminate()

    async def ended(self, seconds: float) -> None:
        """Returns once the process has ended. It is killed after `seconds`."""
        until = asyncio.get_running_loop().time() + seconds
        while self._process.poll() is None:
            if asyncio.get_running_loop().time() > until:
                _log.warning("worker %d does not end; killing it", self._process.pid)
                self._process.kill()
            await asyncio.sleep(_POLL_SECONDS)

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "FOOTFALL_WORKERS": "1",
            "FOOTFALL_SHARED_PORT": "true",
            "FOOTFALL_LISTEN": self._address,
            "FOOTFALL_ADDRESS_FILE": str(self._address_file),
            # The workers end however the supervisor ends.
            "FOOTFALL_STOP_WITH_PARENT": "true",
        }
        # A process session of its own: Ctrl-C reaches only the supervisor, which stops the workers in order.
        return subprocess.Popen(
            [sys.executable, "-P", "-m", self._package],
            stdin=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )


async def _supervise(package: str, address: str, settings: Settings, count: int) -> None:
    stop = told_to_stop(settings)
    with ExitStack() as stack:
        try:
            held = stack.enter_context(_held_port(address))
        except OSError as error:
            raise SystemExit(f"{address} cannot be listened on: {error}") from None
        address = f"{address.rpartition(':')[0]}:{held.getsockname()[1]}"
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="footfall-workers-")))
        workers = [_Worker(package, address, folder / str(number)) for number in range(count)]
        keepers = [asyncio.create_task(worker.keep_alive()) for worker in workers]
        announcing = asyncio.create_task(_announce_when_all_answer(workers, address, settings))
        await stop.wait()
        for task in (announcing, *keepers):
            task.cancel()
        await asyncio.gather(announcing, *keepers, return_exceptions=True)
        for worker in workers:
            worker.terminate()
        await asyncio.gather(*(worker.ended(settings.drain_seconds + _GRACE_SECONDS) for worker in workers))
        _log.info("all workers of %s have ended", package)


async def _announce_when_all_answer(workers: list[_Worker], address: str, settings: Settings) -> None:
    while not all(worker.answers for worker in workers):
        await asyncio.sleep(_POLL_SECONDS)
    announce(settings, address)
    _log.info("%d workers serve on %s", len(workers), address)


def _held_port(address: str) -> socket.socket:
    """A socket that is bound to the address, allows sharing and never listens. Raises OSError if the address is taken.

    It is held as long as the workers run, so that no other program takes the port while a worker is started again.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family, kind, protocol, _, target = socket.getaddrinfo(
        host or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    # Tried without sharing first: a port that another program shares among its processes would be shared here too.
    with socket.socket(family, kind, protocol) as alone:
        alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        alone.bind(target)
    held = socket.socket(family, kind, protocol)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    held.bind(target)
    return held
