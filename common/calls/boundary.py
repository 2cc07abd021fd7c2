"""Registers RPCs so that every call is let in, read, handled and answered in the same way.

A call is authenticated by its metadata, gets a place, and only then is its message read: every RPC is registered as one
that reads a stream, which on the wire is the same. gRPC would read the message of a unary call before it calls the
handler.
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import grpc

from common.calls.call import Call, Context, current_call
from common.calls.messages import MessageLimits, MessageReader, MessageTimes
from common.calls.places import Places
from common.errors import CallError, Reason, from_exception, to_status
from common.keys.key import Key
from common.telemetry import tracing
from common.telemetry.observe import expect, observe

Handler = Any
"""A grpc.RpcMethodHandler. That class cannot be subscripted at run time."""
Authenticate = Callable[[Call], Awaitable[Key | None]]
"""The key that lets a call in. Raises CallError."""
_Answer = Callable[[Call], Awaitable[Any]]


async def _no_key(call: Call) -> None:
    return None


@dataclass(frozen=True)
class Rules:
    """What a service asks of its calls."""

    places: Places
    """Of unary calls."""
    stream_places: Places
    """Of streams; may be the same."""
    limits: MessageLimits
    times: MessageTimes
    authenticate: Authenticate = _no_key


class Boundary:
    """Passed to generated code instead of a server. Registers the service's handlers with the server, wrapped.

    gRPC runs an interceptor at every call; this wraps each handler once. What a handler raises becomes the status that
    common/errors.py makes of it.
    """

    def __init__(self, server: grpc.aio.Server, rules: Rules) -> None:
        self._server = server
        self._rules = rules

    def add_generic_rpc_handlers(self, handlers: Iterable[Handler]) -> None:
        """Does nothing: generated code registers the same handlers by name as well."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Registers the wrapped handlers of a service by their RPCs' names."""
        for name in handlers:
            expect(f"{service}/{name}")
        wrapped = {name: self._wrapped(f"{service}/{name}", handler) for name, handler in handlers.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, wrapped),))
        self._server.add_registered_method_handlers(service, wrapped)  # type: ignore[attr-defined]  # stubs lack it

    def _wrapped(self, rpc: str, handler: Handler) -> Handler:
        rules = self._rules
        reader = MessageReader(handler.request_deserializer, rules.limits, rules.times)
        if handler.response_streaming:
            guarded = self._guarded(rpc, self._streaming(handler, reader), rules.stream_places)
            kind = grpc.stream_stream_rpc_method_handler
        else:
            guarded = self._guarded(rpc, self._unary(handler.unary_unary, reader), rules.places)
            kind = grpc.stream_unary_rpc_method_handler
        # Without a deserializer, gRPC hands out bytes.
        return kind(guarded, None, handler.response_serializer)

    def _guarded(self, rpc: str, answer: _Answer, places: Places) -> Any:
        rules = self._rules

        async def guarded(requests: object, context: Context) -> Any:
            began = time.perf_counter()
            call = Call(rpc, context)
            current_call.set(call)
            span = tracing.call_began(rpc, context.invocation_metadata)
            code = grpc.StatusCode.CANCELLED
            try:
                call.key = await rules.authenticate(call)
                owner = call.peer if call.key is None else call.key.key_id
                places.take(owner)
                try:
                    response = await answer(call)
                finally:
                    places.give_back(owner)
                code = grpc.StatusCode.OK
                return response
            except asyncio.CancelledError:
                raise
            except grpc.aio.AbortError:
                code = context.code()
                raise
            except Exception as error:  # every error is answered with the status made of it
                # Of what generated code declares and a library's servicer leaves out, such as Health/List.
                left_out = isinstance(error, NotImplementedError) and rules.authenticate is _no_key
                refused = _unknown() if left_out else from_exception(error)
                code = refused.code
                await _abort(call, refused)
            finally:
                observe(call, code.name, time.perf_counter() - began)
                if span is not None:
                    tracing.call_ended(span, code.name, call.request_id)

        return guarded

    def _unary(self, handle: Callable[[Any, Context], Awaitable[Any]], reader: MessageReader) -> _Answer:
        async def answer(call: Call) -> Any:
            return await handle(await reader.one(call.context), call.context)

        return answer

    def _streaming(self, handler: Handler, reader: MessageReader) -> _Answer:
        handle = handler.stream_stream or handler.unary_stream

        async def answer(call: Call) -> None:
            context = call.context
            asked = reader.all(context) if handler.request_streaming else await reader.one(context)
            answers = handle(asked, context)
            if inspect.isawaitable(answers):
                await answers  # it writes to the context itself
            else:
                async for response in answers:
                    await context.write(response)

        return answer


class UnknownRpcs(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # cannot be subscripted at run time
    """Answers RPCs that no service has. Registered last."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler:
        """A handler that refuses the call, without reading it."""
        return grpc.stream_stream_rpc_method_handler(_unknown_rpc)


async def _unknown_rpc(requests: object, context: Context) -> None:
    await _abort(Call("unknown", context), _unknown())


def _unknown() -> CallError:
    return CallError(
        grpc.StatusCode.UNIMPLEMENTED,
        Reason.RPC_UNKNOWN,
        "this service has no such RPC; its reflection lists those it has",
    )


async def _abort(call: Call, refused: CallError) -> None:
    status, extra = to_status(refused, call.request_id)
    trailing = (*(status.trailing_metadata or ()), *extra)
    await cast(Any, call.context).abort(status.code, status.details, trailing)
