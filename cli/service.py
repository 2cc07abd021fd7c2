"""A service's process under `footfall up`: started, started again when it ends, replaced without a failed call."""

import logging
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from common.telemetry.exposition import metrics_file

_log = logging.getLogger(__name__)

_START_SECONDS = 60.0
_STOP_SECONDS = 20.0
_POLL_SECONDS = 0.05
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0


class SuiteError(Exception):
    """The suite cannot run. The message says why and what to do."""


@dataclass
class Service:
    """The process of a service, which can be started again at the same address."""

    name: str
    data_dir: Path
    environment: dict[str, str]
    held: socket.socket
    """Bound to the address as long as the suite runs, so that the processes of the service share its port."""
    metrics: str = "127.0.0.1:0"
    """host:port of its metrics."""
    process: subprocess.Popen[bytes] | None = None
    pause: float = field(default=_FIRST_PAUSE)
    not_before: float = 0.0
    leaving: list[subprocess.Popen[bytes]] = field(default_factory=list)
    """Processes that have a successor and wait for their connections to end."""

    @property
    def listen(self) -> str:
        host, port = self.held.getsockname()[:2]
        return f"{host}:{port}"

    @property
    def log(self) -> Path:
        return self.data_dir / "log" / f"{self.name}.log"

    @property
    def _address_file(self) -> Path:
        return self.data_dir / f"{self.name}.address"

    def start(self) -> None:
        """Starts the process. `wait` returns when it answers."""
        self._address_file.unlink(missing_ok=True)
        environment = {
            **self.environment,
            "FOOTFALL_LISTEN": self.listen,
            "FOOTFALL_ADDRESS_FILE": str(self._address_file),
            "FOOTFALL_METRICS_LISTEN": self.metrics,
            "FOOTFALL_SHARED_PORT": "true",
            "FOOTFALL_STOP_WITH_PARENT": "true",
        }
        with self.log.open("ab") as log:
            # A process session of its own: Ctrl-C reaches only the parent, which stops all services in order.
            self.process = subprocess.Popen(
                # -P, so that a folder of the same name in the working directory is not imported.
                [sys.executable, "-P", "-m", f"{self.name}_svc"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Returns once the process answers calls. Raises SuiteError, with the end of its log, if it does not."""
        assert self.process is not None
        until = time.monotonic() + _START_SECONDS
        while not self._address_file.exists():
            if self.process.poll() is not None or time.monotonic() > until:
                _end(self.process)
                tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-5:])
                raise SuiteError(f"the {self.name} service did not start; {self.log} ends with:\n{tail}")
            time.sleep(_POLL_SECONDS)
        # A port that was chosen for 0 is kept, so that Prometheus finds the service after a restart.
        self.metrics = metrics_file(self._address_file).read_text()

    def restart_if_dead(self) -> None:
        """Starts the process again if it has ended. The pause doubles, up to 10 s, each time that fails."""
        assert self.process is not None
        self.leaving = [one for one in self.leaving if one.poll() is None]
        if self.process.poll() is None or time.monotonic() < self.not_before:
            return
        _log.warning("the %s service ended with %s; starting it again", self.name, self.process.returncode)
        try:
            self.start()
            self.wait()
            self.pause = _FIRST_PAUSE
        except SuiteError as error:
            _log.warning("%s", error)
            self.pause = min(self.pause * 2, _LONGEST_PAUSE)
        self.not_before = time.monotonic() + self.pause

    def hand_over(self) -> None:
        """Replaces the process by one of the code that is installed now, without a failed call.

        Returns when the new one answers; the old one leaves in its own time. Raises SuiteError, or OSError, if the new
        one does not answer; the old one goes on then. With FOOTFALL_WORKERS its supervisor does all that.
        """
        before = self.process
        assert before is not None
        if int(self.environment.get("FOOTFALL_WORKERS") or 0) > 0:
            before.send_signal(signal.SIGHUP)
            return
        try:
            self.start()
            self.wait()
        except (SuiteError, OSError):
            self.process = before
            self._address_file.write_text(self.listen)
            raise
        self.leaving.append(before)
        before.send_signal(signal.SIGHUP)

    def terminate(self) -> None:
        """Tells every process of the service to drain and end."""
        for process in (self.process, *self.leaving):
            if process is not None and process.poll() is None:
                process.terminate()

    def stop(self) -> None:
        """Lets calls under way finish. Kills a process that does not end within 20 s."""
        self.terminate()
        for process in (self.process, *self.leaving):
            if process is not None:
                _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
