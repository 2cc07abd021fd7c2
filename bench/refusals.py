"""What a refused call tells its client: the status, and the reason in its details."""

from dataclasses import dataclass
from typing import Any

from google.rpc import error_details_pb2, status_pb2

from common.errors import DOMAIN, Reason

_REASONS = frozenset(Reason)


@dataclass(frozen=True, order=True)
class Refusal:
    """The code of a refused call, and the reason with the domain footfall; "" without one."""

    code: str
    reason: str

    def __str__(self) -> str:
        return f"{self.code} {self.reason or '(no reason)'}"

    @property
    def has_known_reason(self) -> bool:
        """Whether the reason is one of the contract's."""
        return self.reason in _REASONS


def refusal_of(error: Any) -> Refusal:
    """The refusal in a grpc.RpcError, of a synchronous or an asyncio channel."""
    info = error_details_pb2.ErrorInfo()
    for detail in _details(error):
        if detail.Unpack(info) and info.domain == DOMAIN:
            return Refusal(error.code().name, info.reason)
    return Refusal(error.code().name, "")


def _details(error: Any) -> Any:
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            return status_pb2.Status.FromString(value).details
    return ()
