"""Processes that a test starts, and waiting for what they do."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

Found = TypeVar("Found")

_POLL_SECONDS = 0.02
_STOP_SECONDS = 20.0


def eventually(condition: Callable[[], Found], seconds: float = 30.0) -> Found:
    """The first true answer of `condition`. Raises AssertionError with its last one when the time is over."""
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, f"after {seconds} s it is still {found!r}"
        time.sleep(_POLL_SECONDS)
    return found


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and that nobody has waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def children_of(pid: int) -> dict[str, int]:
    """The running processes started by `pid` with `python -m NAME`, by NAME."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            arguments = (folder / "cmdline").read_text().split("\0")
        except OSError:
            continue
        if parent == pid and "-m" in arguments and is_alive(int(folder.name)):
            found[arguments[arguments.index("-m") + 1]] = int(folder.name)
    return found


@dataclass
class Running:
    """A service process of a test and where it answers."""

    address: str
    process: subprocess.Popen[bytes]
    log: Path

    def kill(self) -> None:
        """Ends it as a power cut would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextmanager
def running_service(name: str, folder: Path, environment: Mapping[str, str]) -> Iterator[Running]:
    """One more process of a service; it is stopped by its own id at the end."""
    label = f"{name}-{time.monotonic_ns()}"
    address_file, log = folder / f"{label}.address", folder / f"{label}.log"
    settings = {
        "FOOTFALL_LISTEN": "127.0.0.1:0",
        "FOOTFALL_ADDRESS_FILE": str(address_file),
        "FOOTFALL_STOP_WITH_PARENT": "true",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", f"{name}_svc"],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env={**os.environ, **environment, **settings},
            start_new_session=True,
        )
    try:
        eventually(lambda: address_file.exists() or process.poll() is not None, 60)
        assert process.poll() is None, log.read_text()
        yield Running(address_file.read_text(), process, log)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
