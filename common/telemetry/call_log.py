"""One log line for a call that has ended: of all calls, of those that failed, or of none."""

import logging
import time
from collections.abc import Callable
from typing import Literal

from common.calls.call import Call

LogCalls = Literal["all", "failed", "none"]

_log = logging.getLogger("footfall.calls")

BURST = 10
"""How many calls of one RPC that fail with one code have a line of their own in a minute."""
_WINDOW_SECONDS = 60.0
_OURS = frozenset({"INTERNAL", "UNAVAILABLE", "UNKNOWN", "DATA_LOSS", "DEADLINE_EXCEEDED"})
"""Codes of which the server, and not the caller, is the cause: their lines are warnings."""


class CallLog:
    """Writes the lines.

    By default only calls that fail have one, because a line takes 20 µs and an ingest process answers thousands a
    second. Even those are bounded: a sender without a valid key must not fill the disk.
    """

    def __init__(self, which: LogCalls, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self.which = which
        self._clock = clock
        # For each RPC and code: the end of the minute, the lines written in it, and the calls without a line.
        self._windows: dict[tuple[str, str], tuple[float, int, int]] = {}

    def ended(self, call: Call, code: str, seconds: float) -> None:
        """Writes the line of a call, if it has one."""
        without_line = 0
        if self.which == "failed":
            if code == "OK" or (left_out := self._left_out(call.rpc, code)) is None:
                return
            without_line = left_out
        elif self.which == "none":
            return
        message = f"{call.rpc} {code} in {seconds:.4f} s"
        message += (f", site {call.site}" if call.site else "") + (f", key {call.key.key_id}" if call.key else "")
        extra: dict[str, object] = {"code": code, "seconds": round(seconds, 6)}
        if without_line:
            message += f"; {without_line} more since the last line like it"
            extra["without_line"] = without_line
        _log.log(logging.WARNING if code in _OURS else logging.INFO, "%s", message, extra=extra)

    def _left_out(self, rpc: str, code: str) -> int | None:
        """None = the call has no line; else how many calls before it had none."""
        now = self._clock()
        ends, lines, without = self._windows.get((rpc, code), (0.0, 0, 0))
        if now >= ends:
            ends, lines = now + _WINDOW_SECONDS, 0
        has_line = lines < BURST
        self._windows[rpc, code] = (ends, lines + 1, 0) if has_line else (ends, lines, without + 1)
        return without if has_line else None


_calls = CallLog("failed")


def log_calls(which: LogCalls) -> None:
    """From now on these calls have a line."""
    _calls.which = which


def log_call(call: Call, code: str, seconds: float) -> None:
    """Writes the line of a call that has ended with a gRPC code after so many seconds, if it has one."""
    _calls.ended(call, code, seconds)
