"""Calls that are to be tried again: what their refusal says, and senders that do as it says."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from tests.support.traffic import Sending

TRY_AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)


class Pushback(NamedTuple):
    """A refusal that is nobody's fault."""

    code: grpc.StatusCode
    reason: str
    retry_ms: int


def pushback_of(call: Callable[..., object], *arguments: object, **options: object) -> Pushback:
    """The refusal of a call; its RetryInfo and the trailer that gRPC clients obey say the same delay."""
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **options)
    error: Any = caught.value
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    status: Any = rpc_status.from_call(error)
    assert status is not None, error
    first, second, _request_info = status.details
    assert first.Unpack(info)
    assert second.Unpack(retry)
    delay: int = retry.retry_delay.ToMilliseconds()
    trailer = dict(error.trailing_metadata())
    assert trailer["grpc-retry-pushback-ms"] == str(delay)
    return Pushback(error.code(), info.reason, delay)


@dataclass
class Senders:
    """Threads that send each batch until it is acknowledged, whatever happens meanwhile."""

    sendings: Iterable[Sending]
    threads: int = 8
    try_again: Collection[grpc.StatusCode] = TRY_AGAIN
    """After which refusals a batch is sent again; any other ends the sender."""
    batches_a_second: float = 0.0
    """How fast batches are sent for the first time at most; 0 = as fast as they are answered."""
    acknowledged: int = 0
    """Batches, so far."""
    accepted: int = 0
    """Events of their last answers."""
    refused: Counter[grpc.StatusCode] = field(default_factory=Counter)
    """Calls that went wrong."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _pool: ThreadPoolExecutor | None = None

    def start(self) -> None:
        self._pool = ThreadPoolExecutor(self.threads)
        began = time.monotonic()
        pause = 1 / self.batches_a_second if self.batches_a_second else 0.0
        self._futures = [
            self._pool.submit(self._send, sending, began + number * pause)
            for number, sending in enumerate(self.sendings)
        ]

    def finish(self) -> None:
        """Waits for the last acknowledgement. Raises what a sender could not bear."""
        assert self._pool is not None
        for future in self._futures:
            future.result(120)
        self._pool.shutdown()

    def _send(self, sending: Sending, due: float, seconds: float = 60.0) -> None:
        time.sleep(max(0.0, due - time.monotonic()))
        until = time.monotonic() + seconds
        while True:
            try:
                response = sending.send()
            except grpc.RpcError as error:
                if error.code() not in self.try_again or time.monotonic() > until:
                    raise
                with self._lock:
                    self.refused[error.code()] += 1
                # The pause that a well-behaved client makes between two attempts.
                time.sleep(0.05)
                continue
            assert response.accepted + response.duplicate == len(sending.events)
            with self._lock:
                self.acknowledged += 1
                self.accepted += response.accepted
            return
