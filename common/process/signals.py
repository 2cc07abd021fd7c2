"""What signals tell a process: SIGTERM and SIGINT to stop, SIGHUP that new code or new certificates are there.

A second signal to stop changes nothing, at whatever moment it comes. A SIGHUP that comes because the terminal was
closed stops the process too.
"""

import asyncio
import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

_STOPPING = (signal.SIGTERM, signal.SIGINT)
_TERMINAL_SECONDS = 5.0
"""A terminal is closed at most so long after the SIGHUP that announces it, in s."""


class Signals:
    """The signals that this process has got since `watch`, and what is called for them, in the main thread."""

    def __init__(self) -> None:
        self._stopped = self._hung_up = False
        self._on_stop: Callable[[], None] = lambda: None
        self._on_hangup: Callable[[], None] = lambda: None
        self._terminals = [number for number in (0, 1, 2) if os.isatty(number)]

    def tell(self, on_stop: Callable[[], None], on_hangup: Callable[[], None]) -> None:
        """Calls `on_stop` at the first signal to stop and `on_hangup` at each SIGHUP, also for earlier ones."""
        self._on_stop, self._on_hangup = on_stop, on_hangup
        if self._stopped:
            on_stop()
        elif self._hung_up:
            on_hangup()

    def ignore(self) -> None:
        """From now on signals change nothing. To be called in the main thread when the process begins to stop."""
        for number in (*_STOPPING, signal.SIGHUP):
            # Not SIG_IGN: Python complains of a signal that came just before.
            signal.signal(number, _do_nothing)

    def stop(self, *_: object) -> None:
        """The handler of SIGTERM and SIGINT."""
        self.ignore()
        self._stopped = True
        self._on_stop()

    def hang_up(self, *_: object) -> None:
        """The handler of SIGHUP."""
        if self._terminal_is_gone():
            self.stop()
            return
        self._hung_up = True
        self._on_hangup()
        if self._terminals:
            threading.Thread(target=self._stop_if_terminal_goes, daemon=True).start()

    def _stop_if_terminal_goes(self) -> None:
        # A shell that is closed may send SIGHUP before its terminal is gone.
        until = time.monotonic() + _TERMINAL_SECONDS
        while time.monotonic() < until:
            if self._terminal_is_gone():
                signal.raise_signal(signal.SIGTERM)
                return
            time.sleep(0.1)

    def _terminal_is_gone(self) -> bool:
        return bool(self._terminals) and not any(map(os.isatty, self._terminals))


@cache
def watch() -> Signals:
    """Handles SIGTERM, SIGINT and SIGHUP of this process from the first call on, which is made in the main thread."""
    made = Signals()
    for number in _STOPPING:
        signal.signal(number, made.stop)
    signal.signal(signal.SIGHUP, made.hang_up)
    # Registered first, so it runs last. After it the interpreter puts the default, which kills, in place of handlers.
    atexit.register(_ignore_all)
    return made


def _do_nothing(*_: object) -> None:
    pass


def _ignore_all() -> None:
    for number in (*_STOPPING, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


class Told(NamedTuple):
    """What a process was told, as events of its loop."""

    stop: asyncio.Event
    hangup: asyncio.Event


def told(*, stop_with_parent: bool) -> Told:
    """Events of the running loop: `stop` is set by SIGTERM, by SIGINT and, if wished, by the end of standard input."""
    events = Told(asyncio.Event(), asyncio.Event())
    loop = asyncio.get_running_loop()

    def soon(event: asyncio.Event) -> None:
        # A signal may come while the loop is being closed; the process ends then anyway.
        if not loop.is_closed():
            loop.call_soon_threadsafe(event.set)

    signals = watch()
    signals.tell(lambda: soon(events.stop), lambda: soon(events.hangup))
    if stop_with_parent:
        # The pipe from the parent is closed however the parent ends, on every system.
        stdin = sys.stdin.fileno()

        def read() -> None:
            if not os.read(stdin, 1024):
                loop.remove_reader(stdin)
                signals.stop()

        loop.add_reader(stdin, read)
    return events
