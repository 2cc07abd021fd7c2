"""Reads the messages of a call: each within a time and a size, parsed only after both were checked."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from common.calls.call import Context
from common.errors import CallError, Reason, invalid

FIRST_SECONDS = 30.0
"""How long a call may take to send its first message."""


_EOF = grpc.aio.EOF  # type: ignore[attr-defined]  # stubs lack it


@dataclass(frozen=True)
class MessageLimits:
    """What a service reads."""

    max_bytes: int
    check: Callable[[bytes], None] = lambda data: None
    """Raises CallError for bytes that shall not be parsed."""
    field: str = ""
    """The field that a message which is too large should have less of."""


@dataclass(frozen=True)
class StreamTimes:
    """How long a stream may last, in s."""

    idle_seconds: float
    """Between two messages of the client."""
    age_seconds: float
    """In all."""


class MessageReader:
    """Reads and parses the messages of one RPC."""

    def __init__(self, parse: Callable[[bytes], Any], limits: MessageLimits) -> None:
        self._parse = parse
        self._limits = limits

    async def one(self, context: Context) -> Any:
        """The message of a unary call. Raises CallError if it comes late, is missing, too large or malformed."""
        try:
            async with asyncio.timeout(FIRST_SECONDS):
                data = await context.read()
        except TimeoutError:
            raise _late("the message did not come", FIRST_SECONDS) from None
        if data is _EOF:
            raise _malformed()
        return self._checked(data)

    async def all(self, context: Context, times: StreamTimes) -> AsyncIterator[Any]:
        """The messages of a stream, until the client ends it. Raises CallError as `one`, and after its times."""
        clock = asyncio.get_running_loop().time
        ends_at = clock() + times.age_seconds
        wait = min(FIRST_SECONDS, times.idle_seconds)
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


def _expired(times: StreamTimes) -> CallError:
    return CallError(
        grpc.StatusCode.UNAVAILABLE,
        Reason.STREAM_EXPIRED,
        f"the stream was open for {times.age_seconds:g} s; what it sent was answered, open another for the rest",
        retry_after_ms=0,
    )
