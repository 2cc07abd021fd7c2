"""Processes that a test starts, and waiting for what they do."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil  # type: ignore[import-untyped]  # carries no type information

Found = TypeVar("Found")

_POLL_SECONDS = 0.02
_STOP_SECONDS = 20.0


def eventually(condition: Callable[[], Found], seconds: float = 30.0, pause: float = _POLL_SECONDS) -> Found:
    """The first true answer of `condition`, which is asked again after each pause (s). Raises AssertionError with its
    last answer when the time is over."""
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, f"after {seconds} s it is still {found!r}"
        time.sleep(pause)
    return found


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and that nobody has waited for does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def service_pids(data_dir: Path) -> dict[str, int]:
    """The running service processes of the suite on a data folder, by service."""
    found = {}
    for process in psutil.process_iter():
        try:
            address_file = Path(process.environ().get("FOOTFALL_ADDRESS_FILE", ""))
        except psutil.Error:
            continue
        if address_file.parent == data_dir and is_alive(process.pid):
            found[address_file.stem] = process.pid
    return found


def restarted_pid(data_dir: Path, service: str, before: int) -> int:
    """The process that the suite has put in the place of the one that was `before`, once it answers."""
    file = data_dir / f"{service}.address"
    eventually(lambda: file.exists() and service_pids(data_dir).get(service, before) != before)
    return service_pids(data_dir)[service]


@dataclass
class Running:
    """A service process of a test and where it answers."""

    address: str
    process: subprocess.Popen[bytes]
    log: Path


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
            env={**os.environ, **settings, **environment},
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
