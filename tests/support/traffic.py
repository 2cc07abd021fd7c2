"""Made-up traffic with every hard case in it, and the sending of it by many at once."""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from footfall.ingest.v1 import ingest_pb2
from footfall.query.v1 import query_pb2
from footfall.type.v1 import event_pb2

from tests.oracle.raw_events import CONTEXT_FIELDS, DAY, HOUR, MINUTE, SECOND, RawEvent
from tests.oracle.recount import Recount
from tests.support.footfall_site import EVENT_TYPES, FootfallSite, time_range
from tests.support.processes import eventually

START = 1_709_078_400 * SECOND
"""28 February 2024, a day before a leap day."""
SESSION_TIMEOUT = 30 * MINUTE
WHOLE = START - DAY, START + 30 * DAY
ODD = START + HOUR // 2, START + DAY + 5 * HOUR + 7
"""Raw edges at both ends."""

_STEPS = (0, 1, SECOND, 5 * MINUTE, SESSION_TIMEOUT - 1, SESSION_TIMEOUT, SESSION_TIMEOUT + 1, 2 * HOUR, DAY // 3)
_PATHS = ("", "/", "/a", "/b", "/ü?x=1")


def made_up(seed: int, *, visitors: int, events: int) -> list[RawEvent]:
    """Events of some visitors with gaps around the session timeout, in no particular order."""
    dice = random.Random(seed)  # repeatable, not secret
    clocks = {f"visitor {number}": START + dice.randrange(DAY) for number in range(visitors)}
    made = []
    for _ in range(events):
        visitor = dice.choice(list(clocks))
        clocks[visitor] += dice.choice(_STEPS)
        made.append(_event(dice, visitor, clocks[visitor]))
    dice.shuffle(made)
    return made


def _event(dice: random.Random, visitor: str, occurred_at: int) -> RawEvent:
    kind = dice.choices(("pageview", "track", "identify"), (6, 3, 1))[0]
    some: dict[str, Any] = {name: dice.choice(("", "", f"{name} 1", f"{name} 2")) for name in CONTEXT_FIELDS}
    return RawEvent(
        event_id=str(UUID(int=dice.getrandbits(128), version=4)),
        type=kind,
        occurred_at=occurred_at,
        visitor_id=visitor,
        name=dice.choice(("sign up", "buy")) if kind == "track" else "",
        session_id=dice.choice(("", "", "tab 1", "tab 2")),
        user_id=f"user of {visitor}" if kind == "identify" else "",
        path=dice.choice(_PATHS),
        referrer=dice.choice(("", "https://example.com/")),
        **some,
    )


def message_of(event: RawEvent) -> ingest_pb2.Event:
    """The event as it is sent."""
    texts = ("event_id", "name", "visitor_id", "session_id", "user_id", "path", "title", "referrer")
    message = ingest_pb2.Event(
        type=EVENT_TYPES[event.type],
        context=event_pb2.Context(**{name: getattr(event, name) for name in ("source", *CONTEXT_FIELDS)}),
        **{name: getattr(event, name) for name in texts},
    )
    message.occurred_at.FromMicroseconds(event.occurred_at)
    message.properties.update(event.properties)
    return message


def batch_of(events: Iterable[RawEvent]) -> ingest_pb2.IngestBatchRequest:
    return ingest_pb2.IngestBatchRequest(events=[message_of(event) for event in events])


def overlapping(events: Sequence[RawEvent], seed: int, *, times: int, size: int) -> list[list[RawEvent]]:
    """Batches that hold every event `times` times, each time among other neighbours."""
    dice = random.Random(seed)  # repeatable, not secret
    batches = []
    for _ in range(times):
        order = dice.sample(events, len(events))
        batches += [order[at : at + size] for at in range(0, len(order), size)]
    dice.shuffle(batches)
    return batches


@dataclass(frozen=True)
class Sending:
    """A batch, the process it goes to and the key it goes with."""

    ingest: Any
    write_key: str
    events: Sequence[RawEvent]

    def send(self) -> ingest_pb2.IngestBatchResponse:
        response: ingest_pb2.IngestBatchResponse = self.ingest.IngestBatch(
            batch_of(self.events), metadata=(("x-write-key", self.write_key),), timeout=60
        )
        return response


def send_all(sendings: Iterable[Sending], threads: int = 8) -> Counter[str]:
    """Sends from many threads at once; how many events were accepted, duplicate and rejected."""
    total: Counter[str] = Counter()
    with ThreadPoolExecutor(threads) as pool:
        for response in pool.map(Sending.send, sendings):
            total.update(accepted=response.accepted, duplicate=response.duplicate, rejected=response.rejected)
    return total


def metadata_of(site: FootfallSite) -> query_pb2.ReportMetadata:
    """What a report over everything says of itself."""
    request = query_pb2.GetOverviewRequest(site=site.slug, range=time_range(*WHOLE))
    response: query_pb2.GetOverviewResponse = site.query.GetOverview(request, metadata=site.as_admin)
    return response.metadata


def until_aggregated(site: FootfallSite, seconds: float = 60.0) -> None:
    """Waits until nothing of the site is pending."""
    eventually(lambda: metadata_of(site).pending_events == 0, seconds)


def assert_recounts(site: FootfallSite, events: Iterable[RawEvent], *, not_aggregated: Iterable[RawEvent] = ()) -> None:
    """Every report and list over the whole and over odd ends equals the recount; the list of raw events shows
    those too that are not aggregated."""
    aggregated = list(events)
    recount, of_all = Recount(aggregated, SESSION_TIMEOUT), Recount([*aggregated, *not_aggregated], SESSION_TIMEOUT)
    for span in (WHOLE, ODD):
        for query, expected, answered in site.compare(recount, *span):
            if query != "events":
                assert answered == expected, f"{query} over {span}"
        assert sorted(site.events(span), key=lambda event: event.order) == of_all.events(*span)


def differing(site: FootfallSite, events: Iterable[RawEvent]) -> list[str]:
    """The reports and lists over the whole and over odd ends that do not equal the recount, by name."""
    recount = Recount(list(events), SESSION_TIMEOUT)
    return [
        f"{query} over {span}"
        for span in (WHOLE, ODD)
        for query, expected, answered in site.compare(recount, *span)
        if answered != expected
    ]
