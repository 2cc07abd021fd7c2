"""Sends batches over IngestStream until each is answered. A stream that fails is opened again."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, NamedTuple, cast

import grpc
from footfall.ingest.v1 import ingest_pb2
from footfall.ingest.v1.ingest_pb2_grpc import IngestServiceStub
from google.rpc import error_details_pb2

from cli.connection import describe, fail, rich_status

UNANSWERED_BATCHES = 8
TRIES = 8
_FIRST_DELAY_SECONDS = 0.2
_LONGEST_DELAY_SECONDS = 5.0
_RETRYABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)


class Batch(NamedTuple):
    """One request, and the position in its source after it."""

    request: ingest_pb2.IngestStreamRequest
    position: int


class Answer(NamedTuple):
    """A batch and the response to it."""

    batch: Batch
    response: ingest_pb2.IngestStreamResponse


def send_batches(
    ingest: IngestServiceStub,
    write_key: str,
    batches: Iterator[Batch],
    on_retry: Callable[[str, float], None] = lambda reason, seconds: None,
) -> Iterator[Answer]:
    """The answers to all batches, in order. At most 8 batches are taken from the source ahead of their answers.

    A stream that fails with UNAVAILABLE or RESOURCE_EXHAUSTED, or that ends early, is opened again after the delay that
    the server names (else 0.2 s, doubled each time up to 5 s). Batches without an answer are sent again, so events need
    ids. `on_retry` is called with the reason and the delay in seconds. Raises grpc.RpcError for any other failure, and
    after 8 failures without an answer between them; typer.Exit(1) if the stream has ended early then.
    """
    unanswered: deque[Batch] = deque()
    failures = 0
    while True:
        stream = _Stream(ingest, write_key, unanswered)
        error: grpc.RpcError | None = None
        try:
            while True:
                while len(unanswered) < UNANSWERED_BATCHES and (batch := next(batches, None)):
                    unanswered.append(batch)
                    stream.send(batch)
                if not unanswered:
                    return
                response = stream.receive()
                if response is None:
                    break
                failures = 0
                yield Answer(unanswered.popleft(), response)
        except grpc.RpcError as caught:
            error = caught
        finally:
            stream.close(cancel=bool(unanswered))
        failures += 1
        delay = _retry_delay(error, failures)
        reason = describe(error) if error else "UNAVAILABLE: the server ended the stream before it had answered"
        if delay is None or failures == TRIES:
            raise error or fail(reason)
        on_retry(reason, delay)
        time.sleep(delay)


class _Stream:
    """One call of IngestStream. The caller's thread does everything; gRPC's thread only waits for the next request."""

    def __init__(self, ingest: IngestServiceStub, write_key: str, batches: deque[Batch]) -> None:
        self._requests: SimpleQueue[ingest_pb2.IngestStreamRequest | None] = SimpleQueue()
        for batch in batches:
            self.send(batch)
        self._call = ingest.IngestStream(iter(self._requests.get, None), metadata=(("x-write-key", write_key),))
        self._responses = iter(self._call)

    def send(self, batch: Batch) -> None:
        self._requests.put(batch.request)

    def receive(self) -> ingest_pb2.IngestStreamResponse | None:
        """The next answer; None if the server ended the stream. Raises grpc.RpcError."""
        return next(self._responses, None)

    def close(self, cancel: bool) -> None:
        self._requests.put(None)
        if cancel:
            self._call.cancel()  # type: ignore[no-untyped-call]  # of the stubs
        else:
            # Every batch is answered, so an error no longer matters. The server is given time to end the stream.
            with suppress(grpc.RpcError):
                self.receive()


def _retry_delay(error: grpc.RpcError | None, failures: int) -> float | None:
    """The seconds to wait before the next attempt; None = there is to be none."""
    delay: float = min(_FIRST_DELAY_SECONDS * 2 ** (failures - 1), _LONGEST_DELAY_SECONDS)
    if error is None:
        return delay
    if error.code() not in _RETRYABLE:
        return None
    info = error_details_pb2.RetryInfo()
    named = [detail for detail in rich_status(error).details if detail.Unpack(info)]
    if named:
        delay = info.retry_delay.ToMilliseconds() / 1000
    elif error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
        # An error of gRPC itself, such as a message that is too large. It would fail again.
        return None
    trailer: Iterable[tuple[str, str | bytes]] = cast(Any, error).trailing_metadata() or ()
    pushback = next((value for name, value in trailer if name == "grpc-retry-pushback-ms"), "")
    with suppress(ValueError):
        # In gRPC's retry rules a negative value means: do not try again.
        return int(pushback) / 1000 if int(pushback) >= 0 else None
    return delay
