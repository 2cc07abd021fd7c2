"""How a worker leaves its port to the others without a failed call.

When gRPC stops a server, calls that arrive at that moment are answered CANCELLED (grpc/grpc#41785). So nothing may
arrive any more when it is stopped: new connections are led to another worker, and the connections that are there end
by their age, with a GOAWAY that lets every call on them finish.
"""

import asyncio
import logging

from common.process import listeners

_log = logging.getLogger(__name__)

_HANDSHAKE_SECONDS = 1.0
"""How long a connection that has begun may take until it waits to be accepted, in s."""
_ACCEPT_SECONDS = 5.0
_POLL_SECONDS = 0.05
_BLUR = 1.1
"""gRPC makes the age of connections up to a tenth longer."""


async def hand_over(
    service: str, port: int, connection_age_seconds: float, hangup: asyncio.Event, stop: asyncio.Event
) -> None:
    """Waits for `hangup` and then until nothing arrives here any more; ends at once when `stop` is set.

    Another process must listen on the port by then. Streams that are still open then are the caller's to end.
    """
    if await _first(hangup, stop):
        return
    _log.info("%s hands its port over", service)
    leaving = asyncio.create_task(_leave(port, connection_age_seconds))
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait((leaving, stopped), return_when=asyncio.FIRST_COMPLETED)
    for task in (leaving, stopped):
        task.cancel()
    await asyncio.gather(leaving, stopped, return_exceptions=True)


async def _leave(port: int, connection_age_seconds: float) -> None:
    loop = asyncio.get_running_loop()
    numbers = listeners.listening(port)
    try:
        for number in numbers:
            listeners.lead_away(number)
        # A connection whose handshake was under way still comes here.
        await asyncio.sleep(_HANDSHAKE_SECONDS)
        until = loop.time() + _ACCEPT_SECONDS
        while any(map(listeners.waiting, numbers)) and loop.time() < until:
            await asyncio.sleep(_POLL_SECONDS)
    except OSError as error:
        _log.warning("connections that are being opened may be reset; they cannot be led to another worker: %s", error)
    for number in numbers:
        listeners.close(number)
    until = loop.time() + _BLUR * connection_age_seconds
    while listeners.connections(port) and loop.time() < until:
        await asyncio.sleep(_POLL_SECONDS)


async def _first(hangup: asyncio.Event, stop: asyncio.Event) -> bool:
    """Waits for either; whether the process must stop."""
    waiting = [asyncio.create_task(event.wait()) for event in (hangup, stop)]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
    return stop.is_set()
