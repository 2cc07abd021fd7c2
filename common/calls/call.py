"""The call under way: who calls what, for handlers and for log lines."""

from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import grpc

from common.telemetry import request_ids

if TYPE_CHECKING:
    from common.keys.key import Key

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(eq=False)
class Call:
    """An RPC under way. Nothing of it is read before it is asked for, because most calls need little of it."""

    rpc: str
    """Its full name, such as footfall.query.v1.QueryService/GetTop."""
    context: Context = field(repr=False)
    key: "Key | None" = None
    """The valid key that was sent. None for calls that need none, and before it is authenticated."""
    site: str = ""
    """Slug of the site that the call is about, once the site is found."""

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
        """The caller's own id, or a new one; see common/telemetry/request_ids.py."""
        return request_ids.request_id(self.metadata(request_ids.HEADER))


current_call: ContextVar[Call | None] = ContextVar("current_call", default=None)
"""The call that the running task or thread answers, if there is one."""


def call_under_way() -> Call:
    """The call that the running task or thread answers. Raises LookupError if there is none."""
    call = current_call.get()
    if call is None:
        raise LookupError("no call is under way here")
    return call


def caller() -> "Key":
    """The key of the call under way. Raises LookupError outside a call that was authenticated."""
    key = call_under_way().key
    if key is None:
        raise LookupError("this call was let in without a key")
    return key


def about_site(slug: str) -> None:
    """The call under way, if there is one, is about this site."""
    call = current_call.get()
    if call is not None:
        call.site = slug
