"""Wraps every RPC handler: exceptions and requests that cannot be parsed become statuses with details."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from common.errors import CallError, Reason, from_exception, to_status

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
        wrapped = {name: _wrapped(handler) for name, handler in handlers.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, wrapped),))
        self._server.add_registered_method_handlers(service, wrapped)  # type: ignore[attr-defined]  # stubs lack it


def _wrapped(handler: Handler) -> Handler:
    deserialize = _lenient(handler.request_deserializer)
    if handler.stream_stream is not None:
        return grpc.stream_stream_rpc_method_handler(
            _stream(handler.stream_stream), deserialize, handler.response_serializer
        )
    return grpc.unary_unary_rpc_method_handler(_unary(handler.unary_unary), deserialize, handler.response_serializer)


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


def _unary(handle: Any) -> Any:
    async def call(request: Any, context: Context) -> Any:
        try:
            if isinstance(request, _Malformed):
                raise _malformed()
            return await handle(request, context)
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except Exception as error:  # every error is answered with the status made of it
            await _abort(context, error)

    return call


def _stream(handle: Any) -> Any:
    async def well_formed(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            if isinstance(request, _Malformed):
                raise _malformed()
            yield request

    async def call(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        try:
            async for response in handle(well_formed(requests), context):
                yield response
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except Exception as error:  # every error is answered with the status made of it
            await _abort(context, error)

    return call


async def _abort(context: Context, error: Exception) -> None:
    refused = from_exception(error)
    status, extra = to_status(refused)
    trailing = (*(status.trailing_metadata or ()), *extra)
    await context.abort(status.code, status.details, trailing)
