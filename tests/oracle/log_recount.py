"""An independent reading of an access log in Combined Log Format, for the recount of an imported one.

It shares no code with the product. Bots are included. Visitors are named by address and user agent in
clear, events by the number of their line: names of our own, one-to-one with whatever the product makes.
"""

import gzip
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from tests.oracle.raw_events import RawEvent

COMBINED = re.compile(
    r'^(?P<address>\S+) \S+ \S+ \[(?P<time>[^\]]+)\] "(?P<method>[A-Z]+) (?P<target>\S+) HTTP/[\d.]+" '
    r'(?P<status>\d{3}) \S+ "(?P<referrer>[^"]*)" "(?P<user_agent>[^"]*)"$'
)
"""Strict: a line that is cut off is no request. Escaped quotes do not occur in the logs this is for."""

ASSET = re.compile(
    r"\.(css|js|map|png|jpg|jpeg|gif|ico|svg|webp|woff|woff2|ttf|eot|pdf|txt|xml|gz|zip)$", re.IGNORECASE
)

TAKEN = ("event_id", "visitor_id", "source", "device", "browser", "os")
"""What only the product can know: its names, and what its library says of user agents."""


def read_lines(path: Path) -> list[str]:
    """The lines of a gzip log."""
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as log:
        return [line.rstrip("\n") for line in log]


def pageviews(lines: Iterable[str]) -> Iterator[RawEvent]:
    """A pageview for every GET that was answered with 2xx or 304 and is not for a static asset."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    for number, line in enumerate(lines, start=1):
        match = COMBINED.match(line)
        if match is None or match["method"] != "GET" or not re.fullmatch("2..|304", match["status"]):
            continue
        path = match["target"].split("?")[0]
        if ASSET.search(path):
            continue
        time = datetime.strptime(match["time"], "%d/%b/%Y:%H:%M:%S %z")
        yield RawEvent(
            event_id=str(UUID(int=number)),
            type="pageview",
            occurred_at=(time - epoch) // timedelta(microseconds=1),
            visitor_id=f"{match['address']} {match['user_agent']}",
            path=path,
            referrer="" if match["referrer"] == "-" else match["referrer"],
        )


def by_visitor(events: Iterable[RawEvent]) -> dict[str, list[RawEvent]]:
    """The events of every visitor in an order that does not depend on names."""
    found: dict[str, list[RawEvent]] = defaultdict(list)
    for event in sorted(events, key=lambda event: (event.occurred_at, event.path, event.referrer)):
        found[event.visitor_id].append(event)
    return found


def content(events: list[RawEvent]) -> tuple[tuple[int, str, str], ...]:
    """What a visitor did, whoever it was called."""
    return tuple((event.occurred_at, event.path, event.referrer) for event in events)


def paired(own: Iterable[RawEvent], stored: Iterable[RawEvent]) -> list[tuple[RawEvent, RawEvent]]:
    """Each of our events, and the same one under the names the product gave it and its visitor.

    The names decide nothing but the order of events within one second. Raises ValueError unless both
    sides hold the same visitors doing the same things.
    """
    twins = defaultdict(list)
    for events in by_visitor(stored).values():
        twins[content(events)].append(events)
    pairs = []
    for events in by_visitor(own).values():
        candidates = twins.get(content(events))
        if not candidates:
            raise ValueError(f"no visitor did {content(events)}")
        for event, twin in zip(events, candidates.pop(), strict=True):
            taken = {name: getattr(twin, name) for name in TAKEN}
            pairs.append((event, replace(event, **taken)))
    left = [content(events) for candidates in twins.values() for events in candidates]
    if left:
        raise ValueError(f"nobody did {left[0]}")
    return pairs
