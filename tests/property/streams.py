"""Random streams of events, and random histories in which they are delivered, aggregated and folded."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from hypothesis import strategies as st

from tests.oracle.recount import DAY, HOUR, MINUTE, SECOND, RawEvent

MIDNIGHTS = [
    int(datetime(*day, tzinfo=UTC).timestamp()) * SECOND
    for day in (
        (2024, 2, 29),
        (2024, 3, 10),  # clocks change in North America,
        (2024, 3, 31),  # in Europe, and a month ends
        (2024, 4, 6),  # in Australia, by half an hour on Lord Howe
        (2024, 10, 27),
        (2024, 12, 31),
        (2011, 12, 30),  # the day that Apia skipped
    )
]
"""Where streams take place."""


@dataclass(frozen=True)
class Stream:
    """What happens on one site."""

    events: tuple[RawEvent, ...]
    timeout: int
    partitions: int
    """`rollup_shard_count` at first."""


@dataclass(frozen=True)
class Send:
    """A batch arrives, sent with one of the site's write keys (the later ones know later numbers of partitions)."""

    site: int
    events: tuple[RawEvent, ...]
    key: int
    with_defaults: bool


@dataclass(frozen=True)
class Aggregate:
    """One page of aggregation, in this process or in the admin service."""

    site: int
    limit: int
    by_rpc: bool


@dataclass(frozen=True)
class Compact:
    """One page of folding."""

    site: int
    limit: int


@dataclass(frozen=True)
class Rebuild:
    """One page of a rebuild: of the one under way, or the first of a new one."""

    site: int
    limit: int


@dataclass(frozen=True)
class ChangePartitions:
    """The site's number of partitions changes, whatever is pending."""

    site: int
    partitions: int


@dataclass(frozen=True)
class Ask:
    """Every report and list is asked for a range, whatever is pending or unfolded."""

    site: int
    span: tuple[int, int]


Step = Send | Aggregate | Compact | Rebuild | ChangePartitions | Ask

partitions = st.integers(1, 8)
limits = st.sampled_from((1, 2, 3, 7, 1_000))
timeouts = st.sampled_from((30 * MINUTE, SECOND, HOUR, 5 * HOUR, 2 * DAY))
paths = st.sampled_from(("/", "", "/a", "/b"))
texts = st.sampled_from(("", "x", "y"))


def event_id(number: int) -> str:
    """A UUID that sorts as its number; senders write some in capitals."""
    text = str(UUID(int=(0xABCDEF00 << 96) + number))
    return text.upper() if number % 3 == 1 else text


def any_id(number: int) -> str:
    """An id as senders make them: a UUID, or what only looks like one, or any text. No two numbers share one."""
    uuid = event_id(number)
    return (uuid, uuid, f"order {number}", uuid.replace("-", ""), f"{{{uuid}}}", f"Größe/{number}")[number % 6]


@dataclass(frozen=True)
class Cast:
    """What one stream is made of. Each stream draws its own: with few visitors, sessions and steps events meet in
    the same sessions and instants, with many they do not."""

    visitors: tuple[str, ...]
    sessions: tuple[str, ...]
    kinds: tuple[str, ...]
    steps: tuple[int, ...]


@st.composite
def casts(draw: st.DrawFn, timeout: int) -> Cast:
    """Any few of everything; the steps are nothing, about the timeout, and hours and days."""
    steps = (0, 1, timeout - 1, timeout, timeout + 1, timeout // 2, timeout // 3, 2 * timeout, HOUR, 7 * HOUR, 3 * DAY)

    def some(values: tuple[Any, ...], most: int) -> tuple[Any, ...]:
        return tuple(draw(st.lists(st.sampled_from(values), min_size=1, max_size=most, unique=True)))

    return Cast(
        some(("ann", "bob", "Čeněk"), 3),
        some(("", "s1", "s2"), 3),
        some(("pageview", "track", "identify"), 3),
        some(steps, 4),
    )


@st.composite
def events_of(draw: st.DrawFn, cast: Cast, number: int, at: int) -> RawEvent:
    """One event of the cast."""
    kind = draw(st.sampled_from(cast.kinds))
    return RawEvent(
        event_id=any_id(number),
        type=kind,
        occurred_at=at,
        visitor_id=draw(st.sampled_from(cast.visitors)),
        session_id=draw(st.sampled_from(cast.sessions)),
        name=draw(st.sampled_from(("buy", " buy ", "läuft"))) if kind == "track" else "",
        user_id=draw(st.sampled_from(("u1", "", "u2"))),
        path=draw(paths),
        referrer=draw(texts),
        source=draw(texts),
        device=draw(texts),
        country=draw(st.sampled_from(("", "NP"))),
        utm_source=draw(texts),
        utm_campaign=draw(st.sampled_from(("", "summer\tsale"))),
        properties=draw(st.sampled_from(({}, {"plan": "pro"}, {"plan": 2, "ok": True}, {"plan": 2.5}))),
    )


@st.composite
def times(draw: st.DrawFn, cast: Cast, count: int, midnights: Sequence[int]) -> list[int]:
    """Instants each a step before or after another, or beside the edge of an hour or day."""
    found = [draw(st.sampled_from(midnights)) + draw(st.sampled_from((0, -1, HOUR - 1, 23 * HOUR, DAY - MINUTE)))]
    for _ in range(count - 1):
        at = draw(st.sampled_from(found[-3:])) + draw(st.sampled_from((1, -1))) * draw(st.sampled_from(cast.steps))
        edge = draw(st.sampled_from((0, 0, 0, 0, 0, 0, HOUR, DAY)))
        found.append(at - at % edge - draw(st.integers(0, 1)) if edge else at)
    return found


@st.composite
def streams(draw: st.DrawFn, *, most: int = 20, midnights: Sequence[int] = MIDNIGHTS) -> Stream:
    """Up to `most` events around one of the midnights."""
    timeout = draw(timeouts)
    cast = draw(casts(timeout))
    count = draw(st.integers(1, most))
    numbers = draw(st.lists(st.integers(0, 999), min_size=count, max_size=count, unique=True))
    instants = draw(times(cast, count, midnights))
    return Stream(
        tuple(draw(events_of(cast, number, at)) for number, at in zip(numbers, instants, strict=True)),
        timeout,
        draw(partitions),
    )


@st.composite
def spans(draw: st.DrawFn, stream: Stream) -> tuple[int, int]:
    """A range cut at, beside or between what happens, or at an edge of its hour or day."""
    cuts = st.builds(
        lambda at, edge, beside: (at // edge * edge if edge else at) + beside,
        st.sampled_from([event.occurred_at for event in stream.events]),
        st.sampled_from((0, HOUR, DAY)),
        st.sampled_from((0, 1, -1, HOUR, DAY, 20 * MINUTE)),
    )
    one, other = draw(cuts), draw(cuts)
    return (min(one, other), max(one, other)) if one != other else (one, one + draw(st.sampled_from((1, HOUR, DAY))))


def whole(stream: Stream) -> tuple[int, int]:
    """The range of whole days that holds everything."""
    instants = [event.occurred_at for event in stream.events]
    return min(instants) // DAY * DAY, (max(instants) // DAY + 1) * DAY


@st.composite
def histories(draw: st.DrawFn, sites: list[Stream], *, asks: int = 2, most_duplicates: int = 5) -> list[Step]:
    """Any order, any batches, some of it again, and pages of aggregation and folding in between."""
    order = draw(st.permutations([(site, event) for site, stream in enumerate(sites) for event in stream.events]))
    again = st.tuples(st.sampled_from(order), st.integers(0, len(order)))
    for delivery, place in draw(st.lists(again, max_size=most_duplicates)):
        order.insert(place, delivery)
    actions = ("hold", "hold", "send", "aggregate", "aggregate", "fold", "partitions", "ask", "rebuild")
    waiting: list[list[RawEvent]] = [[] for _ in sites]
    steps: list[Step] = []

    def flush(site: int) -> None:
        if waiting[site]:
            steps.append(Send(site, tuple(waiting[site]), draw(st.integers(0, 3)), draw(st.booleans())))
            waiting[site] = []

    for site, event in order:
        waiting[site].append(event)
        action = draw(st.sampled_from(actions))
        if action != "hold":
            flush(site)
        if action == "aggregate":
            steps.append(Aggregate(site, draw(limits), draw(st.booleans())))
        elif action == "fold":
            steps += [Aggregate(site, draw(limits), by_rpc=False), Compact(site, draw(limits))]
        elif action == "rebuild":
            steps += [Rebuild(site, limit) for limit in draw(st.lists(limits, min_size=1, max_size=4))]
        elif action == "partitions":
            steps.append(ChangePartitions(site, draw(partitions)))
        elif action == "ask" and sum(isinstance(step, Ask) for step in steps) < asks:
            steps.append(Ask(site, draw(st.one_of(st.just(whole(sites[site])), spans(sites[site])))))
    for site in range(len(sites)):
        flush(site)
    return steps
