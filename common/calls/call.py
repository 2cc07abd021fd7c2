"""The call under way: who calls what, for handlers and for log lines."""

import secrets
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import grpc

from common.keys import Key

Context = grpc.aio.ServicerContext[Any, Any]

_MAX_REQUEST_ID = 64


@dataclass(eq=False)
class Call:
    """An RPC under way. Nothing of it is read before it is asked for, because most calls need little of it."""

    rpc: str
    """Its full name, such as footfall.query.v1.QueryService/GetTop."""
    context: Context = field(repr=False)
    key: Key | None = None
    """The key it was let in with. None for calls that need none, and before it is authenticated."""

    @cached_property
    def _metadata(self) -> dict[str, str | bytes]:
        # Of a key that is sent twice, the first value stands.
        return dict(reversed(tuple(self.context.invocation_metadata() or ())))

    def metadata(self, name: str) -> str | None:
        """The first value of a metadata key."""
        value = self._metadata.get(name)
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else value

    def bearer(self) -> str | None:
        """The key in `authorization: Bearer <key>`, if there is one."""
        scheme, _, key = (self.metadata("authorization") or "").partition(" ")
        return key.strip() if scheme.lower() == "bearer" else None

    @cached_property
    def peer(self) -> str:
        """The address that the call comes from, without a port, such as ipv4:127.0.0.1. Of a proxy, the proxy's."""
        whole = self.context.peer()
        return whole.rpartition(":")[0] if whole.startswith(("ipv4:", "ipv6:")) else whole

    @cached_property
    def request_id(self) -> str:
        """The caller's `x-request-id`, if it is 1–64 visible ASCII characters; else a new one."""
        sent = self.metadata("x-request-id") or ""
        if 0 < len(sent) <= _MAX_REQUEST_ID and sent.isascii() and sent.isprintable() and " " not in sent:
            return sent
        return secrets.token_hex(8)


current_call: ContextVar[Call] = ContextVar("current_call")
"""The call whose handler runs. asyncio.to_thread hands it on to threads."""


def caller() -> Key:
    """The key of the call under way. Raises LookupError outside a call that was authenticated."""
    key = current_call.get().key
    if key is None:
        raise LookupError("this call was let in without a key")
    return key
