"""What is known of the call that is being answered: for logs, metrics and errors."""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from common.keys import Key


@dataclass(slots=True)
class Call:
    """One call. Its key and its site become known while it is answered."""

    rpc: str
    """Service and RPC, such as footfall.query.v1.QueryService/GetTop."""
    request_id: str
    key: "Key | None" = None
    peer: str = ""
    site: str = ""
    """Slug of the site that the call is about, once the site is found."""


current_call: ContextVar[Call | None] = ContextVar("current_call", default=None)
"""The call that the running task or thread answers. asyncio.to_thread passes it on."""


def about_site(slug: str) -> None:
    """The current call, if there is one, is about this site."""
    call = current_call.get()
    if call is not None:
        call.site = slug
