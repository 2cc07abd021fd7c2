"""One of the processes of a service that share its port: started, kept alive, replaced without a failed call."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

from common.settings import Settings
from common.telemetry.exposition import metrics_file

_log = logging.getLogger(__name__)

POLL_SECONDS = 0.05
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0
_START_SECONDS = 60.0
"""How long a successor may take until it answers."""
_GRACE_SECONDS = 5.0
"""How long a worker may take beyond its time to drain before it is killed."""
_LEAVE_SECONDS = 10.0
"""How long a worker may take to leave its port, beyond the age of its connections."""


class _Process:
    """A running worker. It is a fresh interpreter, because gRPC does not survive a fork."""

    def __init__(self, package: str, address: str, address_file: Path, *, with_metrics: bool) -> None:
        """Raises OSError if no process can be started."""
        self._address_file = address_file
        environment = {
            **os.environ,
            "FOOTFALL_WORKERS": "0",
            "FOOTFALL_SHARED_PORT": "true",
            "FOOTFALL_LISTEN": address,
            "FOOTFALL_ADDRESS_FILE": str(address_file),
            # The supervisor joins the metrics of its workers.
            "FOOTFALL_METRICS_LISTEN": "127.0.0.1:0" if with_metrics else "",
            # The workers end however the supervisor ends.
            "FOOTFALL_STOP_WITH_PARENT": "true",
        }
        # A process session of its own: Ctrl-C reaches only the supervisor, which stops the workers in order.
        self.popen = subprocess.Popen(
            [sys.executable, "-P", "-m", package],
            stdin=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )

    @property
    def answers(self) -> bool:
        return self._address_file.exists()

    @property
    def metrics_address(self) -> str:
        """Where it serves its metrics; "" = nowhere yet."""
        try:
            return metrics_file(self._address_file).read_text()
        except FileNotFoundError:
            return ""

    @property
    def has_ended(self) -> bool:
        return self.popen.poll() is not None

    def send(self, number: signal.Signals) -> None:
        if not self.has_ended:
            self.popen.send_signal(number)

    async def ended(self, seconds: float) -> None:
        """Returns once the process has ended. It is killed after `seconds`."""
        until = asyncio.get_running_loop().time() + seconds
        while not self.has_ended:
            if asyncio.get_running_loop().time() > until:
                _log.warning("worker %d does not end; killing it", self.popen.pid)
                self.popen.kill()
            await asyncio.sleep(POLL_SECONDS)


class Worker:
    """A place among the workers: there is always one process in it, and during a handover a second one."""

    def __init__(self, package: str, address: str, folder: Path, settings: Settings) -> None:
        """`folder` is the worker's own. Raises OSError if no process can be started."""
        self._package = package
        self._address = address
        self._folder = folder
        self._settings = settings
        self._pause = _FIRST_PAUSE
        self._started = 0
        self._others: list[_Process] = []
        folder.mkdir()
        self._current = self._start()

    @property
    def answers(self) -> bool:
        """Whether its process answers calls yet."""
        return self._current.answers

    @property
    def metrics_address(self) -> str:
        """Where its process serves its metrics; "" = nowhere yet."""
        return self._current.metrics_address

    async def keep_alive(self) -> None:
        """Starts the process again whenever it ends. The pause doubles, up to 10 s, while it ends before it answers."""
        while True:
            process = self._current
            if not process.has_ended:
                await asyncio.sleep(POLL_SECONDS)
                continue
            self._pause = _FIRST_PAUSE if process.answers else min(2 * self._pause, _LONGEST_PAUSE)
            ended = (process.popen.pid, process.popen.returncode, self._pause)
            _log.warning("worker %d ended with %d; starting another in %.1f s", *ended)
            await asyncio.sleep(self._pause)
            if self._current is not process:
                continue
            try:
                self._current = self._start()
            except OSError as error:
                # Too many processes or open files: the next round tries again.
                _log.warning("no worker can be started now: %s", error)

    async def replace(self) -> bool:
        """Starts a successor and, once it answers, tells the process to hand over; returns when that has ended.

        Returns False, and leaves the process as it is, if the successor does not answer within a minute.
        """
        try:
            successor = self._start()
        except OSError as error:
            _log.warning("no worker can be started now: %s", error)
            return False
        self._others.append(successor)
        until = asyncio.get_running_loop().time() + _START_SECONDS
        while not successor.answers and not successor.has_ended and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(POLL_SECONDS)
        if not successor.answers or successor.has_ended:
            _log.error("a new worker does not start; worker %d stays", self._current.popen.pid)
            successor.send(signal.SIGTERM)
            await successor.ended(self._drain_seconds)
            self._others.remove(successor)
            return False
        before, self._current = self._current, successor
        self._others.append(before)
        self._others.remove(successor)
        before.send(signal.SIGHUP)
        # Its connections end within 1.1 times their age.
        await before.ended(1.1 * self._settings.connection_age_seconds + _LEAVE_SECONDS + self._drain_seconds)
        self._others.remove(before)
        return True

    async def stop(self) -> None:
        """Tells its processes to drain, and returns when they have ended."""
        processes = [self._current, *self._others]
        for process in processes:
            process.send(signal.SIGTERM)
        await asyncio.gather(*(process.ended(self._drain_seconds) for process in processes))

    @property
    def _drain_seconds(self) -> float:
        return self._settings.drain_seconds + _GRACE_SECONDS

    def _start(self) -> _Process:
        self._started += 1
        address_file = self._folder / str(self._started)
        return _Process(self._package, self._address, address_file, with_metrics=bool(self._settings.metrics_listen))
