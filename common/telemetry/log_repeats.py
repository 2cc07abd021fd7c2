"""Counts log lines that repeat, such as those of an outage, and writes one line in place of them."""

import atexit
import logging
import threading
import time
from collections.abc import Callable

INTERVAL_SECONDS = 60.0
_MOST_KINDS = 1_000


class RepeatFilter(logging.Filter):
    """Lets the first line of a kind through at once, and counts the next ones until `flush`.

    Two warnings are of one kind if they differ in the text of an exception only, or in nothing. What has a stack trace
    or is below WARNING goes through each time. A text with line breaks becomes one line.
    """

    def __init__(self, emit: Callable[[logging.LogRecord], object]) -> None:
        """`emit` writes the line that stands for the repeats."""
        super().__init__()
        self._emit = emit
        self._lock = threading.Lock()
        # Of each kind the last line that was held back, if any, and how many were.
        self._kinds: dict[tuple[object, ...], tuple[logging.LogRecord | None, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written now."""
        if record.levelno < logging.WARNING or record.exc_info:
            return True
        arguments = record.args if isinstance(record.args, tuple) else (record.args,)
        kind = (record.name, record.levelno, str(record.msg), *(_without_text(one) for one in arguments))
        record.msg, record.args = " ".join(record.getMessage().split()), None
        with self._lock:
            if kind in self._kinds:
                self._kinds[kind] = (record, self._kinds[kind][1] + 1)
                return False
            full = len(self._kinds) >= _MOST_KINDS
            if not full:
                self._kinds[kind] = (None, 0)
        if full:
            self.flush()
        return True

    def flush(self) -> None:
        """Writes one line for each kind that was held back, with its number. A kind without any is new again."""
        with self._lock:
            held = [(last, count) for last, count in self._kinds.values() if last is not None]
            self._kinds = {kind: (None, 0) for kind, (_, count) in self._kinds.items() if count}
            if len(self._kinds) >= _MOST_KINDS:
                self._kinds.clear()
        for last, count in held:
            last.msg = f"{last.msg} ({count} more like it in the last {INTERVAL_SECONDS:.0f} s)"
            self._emit(last)


def count_repeats(handler: logging.Handler) -> None:
    """Makes the handler count repeats, and write their numbers every 60 s and when the process ends."""

    def write(record: logging.LogRecord) -> None:
        # Not `handle`, which would ask the filter again.
        handler.acquire()
        try:
            handler.emit(record)
        finally:
            handler.release()

    repeats = RepeatFilter(write)
    handler.addFilter(repeats)

    def flush_for_ever() -> None:
        while True:
            time.sleep(INTERVAL_SECONDS)
            repeats.flush()

    threading.Thread(target=flush_for_ever, name="log repeats", daemon=True).start()
    atexit.register(repeats.flush)


def _without_text(argument: object) -> object:
    return type(argument) if isinstance(argument, BaseException) else str(argument)
