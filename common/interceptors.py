"""What surrounds every RPC: exceptions become rich statuses, and unreadable requests get a reason too."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from common.errors import CallError, Reason, from_exception, to_status

Context = grpc.aio.ServicerContext[Any, Any]
Handler = Any
"""A grpc.RpcMethodHandler, which the library does not let be subscripted."""


class _Malformed:
    """Stands in for a request that could not be parsed."""


class ErrorInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # cannot be subscripted at run time
    """Turns whatever a handler raises into the status that common/errors.py names for it."""

    def __init__(self, own_services: tuple[str, ...]) -> None:
        self._prefixes = tuple(f"/{name}/" for name in own_services)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(self._prefixes):
            # None: there is no such RPC, and gRPC says so itself.
            return handler
        deserialize = _lenient(handler.request_deserializer)
        if handler.stream_stream is not None:
            return grpc.stream_stream_rpc_method_handler(
                _stream(handler.stream_stream), deserialize, handler.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(
            _unary(handler.unary_unary), deserialize, handler.response_serializer
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


def _unary(handle: Any) -> Any:
    async def call(request: Any, context: Context) -> Any:
        try:
            if isinstance(request, _Malformed):
                raise _malformed()
            return await handle(request, context)
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except Exception as error:  # every error has one way out: the status made of it
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
        except Exception as error:  # every error has one way out: the status made of it
            await _abort(context, error)

    return call


async def _abort(context: Context, error: Exception) -> None:
    refused = from_exception(error)
    status, extra = to_status(refused)
    trailing = (*(status.trailing_metadata or ()), *extra)
    await context.abort(status.code, status.details, trailing)
