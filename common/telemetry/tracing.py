"""Traces, if they are switched on. Without that every function here returns at once and nothing is imported.

The library and its settings are in otel.py, which is imported by `switch_on` only.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from common.telemetry.otel import Tracer

Metadata = Iterable[tuple[str, str | bytes]]
"""The metadata of a call, as gRPC gives it."""

_tracer: "Tracer | None" = None
_NOTHING: AbstractContextManager[Any] = nullcontext()


def switch_on(service: str) -> Callable[[], None]:
    """Traces from now on; returns what sends the last spans at the end of the process.

    `service` names the process in traces, such as footfall-ingest, unless OTEL_SERVICE_NAME does. Raises SystemExit
    with one line if the library is not installed.
    """
    global _tracer
    try:
        from common.telemetry.otel import Tracer
    except ImportError as error:
        raise SystemExit(
            f"FOOTFALL_TRACES needs the packages of the extra: pip install 'footfall[otel]' ({error})"
        ) from None
    _tracer = Tracer(service)
    return _tracer.close


def call_began(rpc: str, metadata: Callable[[], Metadata | None]) -> object:
    """Begins the span of a call, below the caller's if its metadata has a `traceparent`. Pass the result to
    `call_ended`. None = no traces."""
    return None if _tracer is None else _tracer.call_began(rpc, metadata() or ())


def call_ended(span: object, code: str, request_id: str) -> None:
    """Ends the span of a call with its gRPC code."""
    if span is not None and _tracer is not None:
        _tracer.call_ended(span, code, request_id)


def current() -> object:
    """The place of the running span, for work that is done elsewhere. None = no traces."""
    return None if _tracer is None else _tracer.current()


def span(name: str, **attributes: str | int) -> AbstractContextManager[Any]:
    """A span around a block, below the running one."""
    return _NOTHING if _tracer is None else _tracer.span(name, attributes)


def span_of_calls(name: str, places: Iterable[object]) -> AbstractContextManager[Any]:
    """A span for work that is done for several calls at once. `places` are what `current` returned in each.

    It stands below the first call and links to the others: a span has one parent.
    """
    return _NOTHING if _tracer is None else _tracer.span_of_calls(name, [place for place in places if place])
