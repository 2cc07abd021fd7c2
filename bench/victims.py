"""The processes of a suite that can be killed: services, their workers, Postgres and its backends."""

import os
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # carries no type information

from tests.support.processes import is_alive, service_pids

POSTMASTER = "postmaster"
_BACKEND = "backend of Postgres"
_HELPER = "helper of Postgres"
_HELPERS = ("checkpointer", "background writer", "walwriter", "launcher", "worker", "startup", "logger", "archiver")


def victims(folder: Path) -> dict[str, list[int]]:
    """The ids of the running processes of the suite on a data folder, by what they are."""
    found: dict[str, list[int]] = {}
    for service, pid in service_pids(folder).items():
        found.setdefault(service, []).append(pid)
        for worker in _children(pid):
            found.setdefault(f"worker of {service}", []).append(worker.pid)
    postmaster = _postmaster(folder)
    if postmaster is not None:
        found[POSTMASTER] = [postmaster]
        for child in _children(postmaster):
            title = " ".join(child.cmdline()) if child.is_running() else ""
            kind = _HELPER if any(helper in title for helper in _HELPERS) else _BACKEND
            found.setdefault(kind, []).append(child.pid)
    return found


@dataclass
class Killer:
    """Kills processes of a suite by chance, kind by kind: each kind once before any of them again."""

    folder: Path
    rng: random.Random
    killed: dict[str, int] = field(default_factory=dict)
    """How often, by kind."""
    _kinds: list[str] = field(default_factory=list)

    def kill(self, until: Callable[[], bool]) -> None:
        """Ends one process as a power cut would. Looks for one that runs until `until` says that it is too late."""
        while not until():
            running = victims(self.folder)
            kind = self._next_kind(running)
            if kind is None:
                continue
            pid = self.rng.choice(running[kind])
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            self.killed[kind] = self.killed.get(kind, 0) + 1
            return

    def _next_kind(self, running: dict[str, list[int]]) -> str | None:
        """A kind of this round that runs now. A new round begins when none is left of it."""
        for _ in range(2):
            for kind in self._kinds:
                if kind in running:
                    self._kinds.remove(kind)
                    return kind
            self._kinds = sorted(running)
            self.rng.shuffle(self._kinds)
        return None


def _children(pid: int) -> Iterator[psutil.Process]:
    try:
        yield from psutil.Process(pid).children()
    except psutil.NoSuchProcess:
        return


def _postmaster(folder: Path) -> int | None:
    """The id of the embedded Postgres's first process; None while there is none."""
    note = folder / "postgres.home"
    try:
        pid = int((Path(note.read_text()) / "postmaster.pid").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return pid if is_alive(pid) else None
