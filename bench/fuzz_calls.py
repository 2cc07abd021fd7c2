"""Finds every RPC of a service by server reflection, calls it with any bytes, and judges what it answers."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.descriptor import Descriptor, MethodDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from bench.refusals import Refusal, refusal_of

TIMEOUT_SECONDS = 45.0
LONGEST_METADATA = 6_000
"""In bytes, of all values. Beyond 8 KiB gRPC itself may refuse a call, before any code of ours."""

_OURS = "footfall."
_NEVER = ("INTERNAL", "UNKNOWN", "DATA_LOSS")
_MOST_ANSWERS = 50
_LARGEST_ANSWER = [("grpc.max_receive_message_length", 64 << 20)]

Metadata = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True)
class Rpc:
    """An RPC of a running service."""

    service: str
    """ "ingest", "query" or "admin": whose process answers."""
    path: str
    request: Descriptor
    response: Descriptor
    request_streaming: bool
    response_streaming: bool

    @property
    def is_ours(self) -> bool:
        """Whether Footfall defines it, and not gRPC."""
        return self.path.startswith(f"/{_OURS}")

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class Attempt:
    """A call that is to be made."""

    number: int
    rpc: Rpc
    key: str
    """What kind of key it is sent with."""
    metadata: Metadata
    requests: Sequence[bytes]

    def __str__(self) -> str:
        shown = " ".join(request[:60].hex() for request in self.requests[:2])
        return f"call {self.number}, {self.rpc.path}, {self.key}, {sum(map(len, self.requests)):,} bytes: {shown}"


@dataclass
class Verdicts:
    """What became of all calls."""

    answered: int = 0
    refused: Counter[Refusal] = field(default_factory=Counter)
    faults: dict[str, list[str]] = field(default_factory=dict)
    """What must not happen: the calls by what is wrong with them."""
    let_in: list[str] = field(default_factory=list)
    """Calls of ours that were answered without a right key."""

    @property
    def number_of_faults(self) -> int:
        """Calls of all faults."""
        return sum(map(len, self.faults.values()))


def rpcs_of(service: str, channel: grpc.Channel) -> list[Rpc]:
    """Every RPC that the process names by reflection, health, channelz and reflection itself included."""
    database: Any = ProtoReflectionDescriptorDatabase(channel)
    pool = DescriptorPool(database)
    return [
        _rpc(service, name, method)
        for name in sorted(database.get_services())
        for method in pool.FindServiceByName(name).methods
    ]


def open_channel(address: str) -> grpc.Channel:
    """A channel that reads answers of any length."""
    return grpc.insecure_channel(address, options=_LARGEST_ANSWER)


def call(channel: grpc.Channel, attempt: Attempt, verdicts: Verdicts) -> list[bytes]:
    """Makes the call and judges it. Returns its answers."""
    try:
        answers = list(_answers(channel, attempt))
    except grpc.RpcError as error:
        refusal = refusal_of(error)
        verdicts.refused[refusal] += 1
        fault = _fault(attempt, refusal)
        if fault:
            details = error.details() if isinstance(error, grpc.Call) else ""
            kind = f"{fault}: {attempt.rpc.path}: {refusal}"
            verdicts.faults.setdefault(kind, []).append(f"{attempt}: {(details or '')[:200]}")
        return []
    verdicts.answered += 1
    if attempt.rpc.is_ours and not attempt.key.startswith("right") and answers:
        verdicts.let_in.append(str(attempt))
    return answers


def _rpc(service: str, name: str, method: MethodDescriptor) -> Rpc:
    return Rpc(
        service,
        f"/{name}/{method.name}",
        method.input_type,
        method.output_type,
        method.client_streaming,
        method.server_streaming,
    )


def _answers(channel: grpc.Channel, attempt: Attempt) -> Iterator[bytes]:
    rpc = attempt.rpc
    options: dict[str, Any] = {"metadata": attempt.metadata, "timeout": TIMEOUT_SECONDS}
    if not rpc.request_streaming and not rpc.response_streaming:
        yield channel.unary_unary(rpc.path, None, None)(attempt.requests[0], **options)
        return
    stream: Any
    if rpc.request_streaming:
        stream = channel.stream_stream(rpc.path, None, None)(iter(attempt.requests), **options)
    else:
        stream = channel.unary_stream(rpc.path, None, None)(attempt.requests[0], **options)
    for number, answer in enumerate(stream, 1):
        yield answer
        # A Watch goes on for ever.
        if number == _MOST_ANSWERS or not rpc.request_streaming:
            stream.cancel()
            return


def _fault(attempt: Attempt, refusal: Refusal) -> str:
    """What is wrong with a refusal; "" if nothing is."""
    if refusal.code in _NEVER:
        return "the service failed"
    if refusal.code == "DEADLINE_EXCEEDED" and not refusal.reason:
        return f"no answer within {TIMEOUT_SECONDS:g} s"
    if attempt.rpc.is_ours and not refusal.has_known_reason:
        return "refused without a known reason"
    return ""
