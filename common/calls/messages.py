"""Reads the messages of a call: each within a time and a size, parsed only after both were checked."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from common.calls.call import Context
from common.errors import CallError, Reason, invalid

_EOF = grpc.aio.EOF  # type: ignore[attr-defined]  # stubs lack it


_TICK_SECONDS = 1.0


@dataclass(frozen=True)
class MessageLimits:
    """What a service reads."""

    max_bytes: int
    check: Callable[[bytes], None] = lambda data: None
    """Raises CallError for bytes that shall not be parsed."""
    field: str = ""
    """The field that a message which is too large should have less of."""


@dataclass(frozen=True)
class MessageTimes:
    """How long a call may wait for messages, in s."""

    first_seconds: float
    """For the first."""
    idle_seconds: float
    """A stream: for each other."""
    age_seconds: float
    """A stream: in all."""


class MessageReader:
    """Reads and parses the messages of one RPC."""

    def __init__(self, parse: Callable[[bytes], Any], limits: MessageLimits, times: MessageTimes) -> None:
        self._parse = parse
        self._limits = limits
        self._times = times
        self._in_time = _InTime(times.first_seconds)

    async def one(self, context: Context) -> Any:
        """The message of a unary call. Raises CallError if it comes late, is missing, too large or malformed."""
        try:
            data = await self._in_time.read(context)
        except TimeoutError:
            raise _late("the message did not come", self._times.first_seconds) from None
        if data is _EOF:
            raise _malformed()
        return self._checked(data)

    async def all(self, context: Context) -> AsyncIterator[Any]:
        """The messages of a stream, until the client ends it. Raises CallError as `one`, and after its times."""
        times, clock = self._times, asyncio.get_running_loop().time
        ends_at = clock() + times.age_seconds
        wait = times.first_seconds
        while True:
            try:
                async with asyncio.timeout_at(min(clock() + wait, ends_at)):
                    data = await context.read()
            except TimeoutError:
                raise _expired(times) if clock() >= ends_at else _late("no message came", wait) from None
            if data is _EOF:
                return
            yield self._checked(data)
            wait = times.idle_seconds

    def _checked(self, data: bytes) -> Any:
        if len(data) > self._limits.max_bytes:
            raise _too_large(len(data), self._limits)
        try:
            self._limits.check(data)
            return self._parse(data)
        except DecodeError:
            raise _malformed() from None


class _InTime:
    """Reads that must end within a time. One timer looks after all: a timer for each would cost as much as a small
    call's parsing and authentication."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ends: dict[asyncio.Task[Any], float] = {}
        self._ticking = False

    async def read(self, context: Context) -> Any:
        """What the context reads. Raises TimeoutError after the time, or up to a second later."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        self._ends[task] = loop.time() + self._seconds
        if not self._ticking:
            self._ticking = True
            loop.call_later(_TICK_SECONDS, self._tick, loop)
        try:
            return await context.read()
        except asyncio.CancelledError:
            # It was cancelled by the client, unless the timer has taken it out.
            if task in self._ends or task.uncancel() > 0:
                raise
            raise TimeoutError from None
        finally:
            self._ends.pop(task, None)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        # In the order in which they began, so the first that has time ends the search.
        for task, _ in list(takewhile(lambda item: item[1] <= now, self._ends.items())):
            del self._ends[task]
            task.cancel()
        self._ticking = bool(self._ends)
        if self._ticking:
            loop.call_later(_TICK_SECONDS, self._tick, loop)


def _too_large(size: int, limits: MessageLimits) -> CallError:
    message = f"the message has {size} bytes, {limits.max_bytes} are allowed"
    if limits.field:
        return invalid(limits.field, Reason.MESSAGE_TOO_LARGE, f"{message}; send several")
    return CallError(grpc.StatusCode.INVALID_ARGUMENT, Reason.MESSAGE_TOO_LARGE, message)


def _malformed() -> CallError:
    return CallError(
        grpc.StatusCode.INVALID_ARGUMENT,
        Reason.MESSAGE_MALFORMED,
        "the request is not a valid message of this RPC; are its strings valid UTF-8?",
    )


def _late(what: str, seconds: float) -> CallError:
    return CallError(
        grpc.StatusCode.UNAVAILABLE,
        Reason.MESSAGE_LATE,
        f"{what} within {seconds:g} s; open the call when there is something to send",
        retry_after_ms=0,
    )


def _expired(times: MessageTimes) -> CallError:
    return CallError(
        grpc.StatusCode.UNAVAILABLE,
        Reason.STREAM_EXPIRED,
        f"the stream was open for {times.age_seconds:g} s; what it sent was answered, open another for the rest",
        retry_after_ms=0,
    )
