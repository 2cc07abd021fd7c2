"""How many events a second one ingest process acknowledges, compared with what one bare connection stores.

    python -m bench.ingest [--scale 0.1] [--json FILE]

Every shape of load and the yardstick take turns for three rounds. The figures are medians.
"""

import itertools
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

from footfall.ingest.v1 import ingest_pb2

from bench.command_line import main, say
from bench.events import batch
from bench.figures import Figure
from bench.own_suite import Stage, open_stage, peak_memory
from bench.senders import Sent, call_all, stream_all
from bench.yardstick import Yardstick

PART = "ingest"
UNARY = 0.8
STREAM = 1.0
INGEST_MEGABYTES = 200.0

CALLERS = 32
_STREAMS = 4
_ROUNDS = 3
_EVENTS = 50_000
"""How many events a turn sends."""

Send = Callable[[str, str, list[bytes], int], Sent]


@dataclass
class Shape:
    """One way of sending."""

    name: str
    send: Send
    senders: int
    events_a_call: int
    target: float | None = None
    share: float = 1.0
    """The part of a turn's events that is sent; less where small calls are slow."""
    repeated: bool = False
    """Whether half of the events were sent before."""
    turns: list[Sent] = field(default_factory=list)


def _shapes() -> list[Shape]:
    return [
        Shape("unary × 50", call_all, CALLERS, 50, UNARY),
        Shape("stream × 500", stream_all, _STREAMS, 500, STREAM),
        Shape("unary × 1", call_all, CALLERS, 1, share=0.05),
        Shape("unary × 10", call_all, CALLERS, 10, share=0.4),
        Shape("unary × 500", call_all, CALLERS, 500),
        Shape("unary × 50, half duplicates", call_all, CALLERS, 50, repeated=True),
    ]


def measure(scale: float) -> list[Figure]:
    """Measures all shapes in turns with the yardstick, on a suite of its own."""
    with open_stage() as stage:
        return _measure(stage, round(_EVENTS * scale))


def _measure(stage: Stage, events: int) -> list[Figure]:
    rng = random.Random(1)
    key = stage.create_site("ingest")
    address = stage.connection.ingest
    yardstick, shapes = Yardstick(stage.database_url), _shapes()
    with peak_memory([stage.service_pid("ingest")]) as peaks:
        for turn in range(_ROUNDS):
            yardstick.run(events)
            for shape in shapes:
                calls = max(CALLERS, round(events * shape.share / shape.events_a_call))
                requests = requests_of(calls, shape.events_a_call, rng, repeated=shape.repeated)
                shape.turns.append(shape.send(address, key, requests, shape.senders))
            say(f"ingest: round {turn + 1} of {_ROUNDS}, bare {yardstick.rates[-1]:,.0f} events/s")
    figures = [Figure(PART, "bare loop", yardstick.rate, "events/s")]
    for shape in shapes:
        figures += _figures(shape, yardstick)
    return [*figures, Figure(PART, "peak RSS of the ingest process", peaks[0], "MB", INGEST_MEGABYTES, at_least=False)]


def requests_of(calls: int, events: int, rng: random.Random, *, repeated: bool = False) -> list[bytes]:
    """Encoded batches. With `repeated`, the second half of each is the first half of the batch before it."""
    if not repeated:
        return [batch(events, rng).SerializeToString() for _ in range(calls)]
    made = [batch(events // 2, rng) for _ in range(calls + 1)]
    return [_joined(new, old).SerializeToString() for old, new in itertools.pairwise(made)]


def _joined(new: ingest_pb2.IngestBatchRequest, old: ingest_pb2.IngestBatchRequest) -> ingest_pb2.IngestBatchRequest:
    request = ingest_pb2.IngestBatchRequest()
    request.CopyFrom(new)
    request.events.extend(old.events)
    return request


def _figures(shape: Shape, yardstick: Yardstick) -> list[Figure]:
    # Each turn is divided by the yardstick's turn of the same round.
    ratios = [sent.rate / bare for sent, bare in zip(shape.turns, yardstick.rates, strict=True)]
    rate = statistics.median(sent.rate for sent in shape.turns)
    figures = [
        Figure(PART, f"{shape.name}, over the bare loop", statistics.median(ratios), "×", shape.target),
        Figure(PART, f"  {shape.name}", rate, "events/s"),
    ]
    for percent in (50, 95, 99):
        value = statistics.median(sent.percentile(percent) for sent in shape.turns)
        figures.append(Figure(PART, f"  {shape.name}, p{percent} of a call", value, "ms"))
    return figures


if __name__ == "__main__":
    main(__doc__, measure)
