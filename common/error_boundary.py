"""Wraps every RPC handler: exceptions and requests that cannot be parsed become statuses with details, and every call
is known by its request id and observed when it ends."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from common.calls.call import Call, current_call
from common.errors import CallError, Reason, from_exception, to_status
from common.keys import metadata_value
from common.telemetry import tracing
from common.telemetry.observe import expect, observe
from common.telemetry.request_ids import HEADER, request_id

Context = grpc.aio.ServicerContext[Any, Any]
Handler = Any
"""A grpc.RpcMethodHandler. That class cannot be subscripted at run time."""


class _Malformed:
    """Takes the place of a request that could not be parsed."""


class ErrorBoundary:
    """Registers RPCs with a server. What a handler raises becomes the status that common/errors.py makes of it.

    It is passed to generated code instead of the server. gRPC runs an interceptor at every call; this wraps each
    handler once.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Iterable[Handler]) -> None:
        """Does nothing: generated code registers the same handlers by name as well."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Registers the wrapped handlers of a service by their RPCs' names."""
        wrapped = {name: _wrapped(f"{service}/{name}", handler) for name, handler in handlers.items()}
        for name in handlers:
            expect(f"{service}/{name}")
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, wrapped),))
        self._server.add_registered_method_handlers(service, wrapped)  # type: ignore[attr-defined]  # stubs lack it


def _wrapped(rpc: str, handler: Handler) -> Handler:
    deserialize = _lenient(handler.request_deserializer)
    if handler.stream_stream is not None:
        return grpc.stream_stream_rpc_method_handler(
            _stream(rpc, handler.stream_stream), deserialize, handler.response_serializer
        )
    return grpc.unary_unary_rpc_method_handler(
        _unary(rpc, handler.unary_unary), deserialize, handler.response_serializer
    )


def _lenient(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    assert deserialize is not None

    def parse(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return _Malformed()

    return parse


def _malformed() -> CallError:
    return CallError(
        grpc.StatusCode.INVALID_ARGUMENT,
        Reason.MESSAGE_MALFORMED,
        "the request is not a valid message of this RPC; are its strings valid UTF-8?",
    )


class _Watched:
    """A call that is being answered: known to its task from the beginning, observed at its end."""

    __slots__ = ("_began", "_code", "_span", "call")

    def __init__(self, rpc: str, context: Context) -> None:
        self._began = time.perf_counter()
        self._code = "OK"
        self.call = Call(rpc, request_id(metadata_value(context, HEADER)), peer=context.peer())
        self._span = tracing.call_began(rpc, context.invocation_metadata)

    def __enter__(self) -> "_Watched":
        current_call.set(self.call)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # GeneratorExit where a stream is cancelled while gRPC sends one of its responses.
        if kind is not None and issubclass(kind, (asyncio.CancelledError, GeneratorExit)):
            self._code = "CANCELLED"
        observe(self.call, self._code, time.perf_counter() - self._began)
        tracing.call_ended(self._span, self._code, self.call.request_id)

    async def refuse(self, context: Context, error: Exception) -> None:
        """Answers with the status made of the error."""
        refused = from_exception(error)
        self._code = refused.code.name
        status, extra = to_status(refused, self.call.request_id)
        trailing = (*(status.trailing_metadata or ()), *extra)
        await context.abort(status.code, status.details, trailing)


def _unary(rpc: str, handle: Any) -> Any:
    async def call(request: Any, context: Context) -> Any:
        with _Watched(rpc, context) as watched:
            try:
                if isinstance(request, _Malformed):
                    raise _malformed()
                return await handle(request, context)
            except (asyncio.CancelledError, grpc.aio.AbortError):
                raise
            except Exception as error:  # every error is answered with the status made of it
                await watched.refuse(context, error)

    return call


def _stream(rpc: str, handle: Any) -> Any:
    async def well_formed(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            if isinstance(request, _Malformed):
                raise _malformed()
            yield request

    async def call(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        with _Watched(rpc, context) as watched:
            try:
                async for response in handle(well_formed(requests), context):
                    yield response
            except (asyncio.CancelledError, grpc.aio.AbortError):
                raise
            except Exception as error:  # every error is answered with the status made of it
                await watched.refuse(context, error)

    return call
