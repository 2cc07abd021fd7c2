"""Generates events of many days, with many visitors in a batch, and sends them as fast as a few streams take them."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from footfall.ingest.v1 import ingest_pb2
from footfall.ingest.v1.ingest_pb2_grpc import IngestServiceStub
from footfall.type.v1 import event_pb2

from bench.events import uuid7

BATCH = 500
DAY = 86_400
_DEVICES = ("desktop", "mobile", "tablet")
_COUNTRIES = ("DE", "FR", "US", "IN", "JP", "BR")
_REFERRERS = ("", "", "https://www.example.org/search", "https://news.example.net/")


def batches(
    events: int, start: int, end: int, rng: random.Random, *, visitors: int = 50_000
) -> Iterator[ingest_pb2.IngestStreamRequest]:
    """`events` events from `start` to `end` (seconds since 1970), in order of time. Those of a visit are in a row."""
    step = (end - start) / events
    sent = 0
    while sent < events:
        request = ingest_pb2.IngestStreamRequest()
        while len(request.events) < min(BATCH, events - sent):
            number = rng.randrange(visitors)
            context = event_pb2.Context(
                source="web", device=_DEVICES[number % 3], country=_COUNTRIES[number % 6], browser="Firefox", os="Linux"
            )
            for _ in range(min(rng.randrange(1, 8), events - sent - len(request.events), BATCH - len(request.events))):
                at = start + (sent + len(request.events)) * step
                event = request.events.add(
                    event_id=uuid7(),
                    type=event_pb2.EVENT_TYPE_PAGEVIEW,
                    visitor_id=f"visitor-{number:06d}",
                    path=f"/articles/{int(rng.paretovariate(1.0)) % 2_000:04d}",
                    referrer=rng.choice(_REFERRERS),
                    context=context,
                )
                event.occurred_at.FromMicroseconds(int(at * 1_000_000))
        sent += len(request.events)
        yield request


def send(stub: IngestServiceStub, key: str, parts: list[Iterator[ingest_pb2.IngestStreamRequest]]) -> int:
    """Sends each part over a stream of its own, all at once. Returns how many events were accepted."""

    def one(part: Iterator[ingest_pb2.IngestStreamRequest]) -> int:
        answers = stub.IngestStream(part, metadata=(("x-write-key", key),))
        return sum(answer.accepted for answer in answers)

    with ThreadPoolExecutor(len(parts)) as pool:
        return sum(pool.map(one, parts))
