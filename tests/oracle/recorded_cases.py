"""The recorded cases, as messages to send, as raw events to recount and as answers to compare with.

`golden_data/README.md` says what the files hold and how their answers map to ours.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from footfall.ingest.v1 import ingest_pb2
from footfall.type.v1 import event_pb2

from tests.oracle.answers import Metrics
from tests.oracle.raw_events import DAY, HOUR, MILLISECOND, MINUTE, RawEvent, Scalar, json_text
from tests.oracle.recount import Recount

GOLDEN_DATA = Path(__file__).with_name("golden_data")
SESSION_TIMEOUT = 30 * MINUTE

TOP_DIMENSIONS = {
    "getTopPages": "page",
    "getTopReferrers": "referrer",
    "getTopSources": "utm_source",
    "getTopMediums": "utm_medium",
    "getTopCampaigns": "utm_campaign",
    "getTopEvents": "event",
}

SENT_AS = {
    "visitorId": "visitor_id",
    "sessionId": "session_id",
    "userId": "user_id",
    "utmSource": "utm_source",
    "utmMedium": "utm_medium",
    "utmCampaign": "utm_campaign",
}
"""The fields whose recorded names are not ours already."""


def read(name: str) -> dict[str, Any]:
    """One recorded file."""
    recorded: dict[str, Any] = json.loads((GOLDEN_DATA / name).read_text(encoding="utf-8"))
    return recorded


def rows(table: dict[str, Any]) -> list[dict[str, Any]]:
    """A compact table, row by row; null means absent."""
    return [
        {column: value for column, value in zip(table["columns"], row, strict=True) if value is not None}
        for row in table["rows"]
    ]


def renamed(recorded: dict[str, Any]) -> dict[str, Any]:
    return {SENT_AS.get(name, name): value for name, value in recorded.items()}


@dataclass(frozen=True)
class Batch:
    """The recorded arguments of one batch."""

    recorded: dict[str, Any]

    def request(self) -> ingest_pb2.IngestBatchRequest:
        """The batch as it is sent, with its defaults apart."""
        shared = renamed({name: value for name, value in self.recorded.items() if name in SENT_AS})
        context = event_pb2.Context(**renamed(self.recorded.get("context", {})))
        return ingest_pb2.IngestBatchRequest(
            defaults=ingest_pb2.EventDefaults(**shared, context=context),
            events=[self._message(event) for event in self.recorded["events"]],
        )

    def raw_events(self) -> list[RawEvent]:
        """The batch as it is meant, with its defaults merged."""
        defaults = renamed({name: value for name, value in self.recorded.items() if name in SENT_AS})
        context = renamed(self.recorded.get("context", {}))
        merged = [defaults | context | renamed(event) for event in self.recorded["events"]]
        return [
            RawEvent(
                event_id=event.pop("eventId"),
                occurred_at=event.pop("occurredAt") * MILLISECOND,
                **event,
            )
            for event in merged
        ]

    @staticmethod
    def _message(recorded: dict[str, Any]) -> ingest_pb2.Event:
        given = renamed(recorded)
        message = ingest_pb2.Event(
            event_id=given.pop("eventId"),
            type=event_pb2.EventType.Value(f"EVENT_TYPE_{given.pop('type').upper()}"),
        )
        message.occurred_at.FromMilliseconds(given.pop("occurredAt"))
        message.properties.update(given.pop("properties", {}))
        message.MergeFrom(ingest_pb2.Event(**given))
        return message


class Answers(Protocol):
    """What answers a range: the recount, or a site of the running services."""

    def overview(self, start: int, end: int) -> Metrics: ...

    def timeseries(self, start: int, end: int, length: int) -> list[tuple[int, Metrics]]: ...

    def top(self, dimension: str, start: int, end: int) -> list[tuple[str, Metrics]]: ...

    def breakdown(self, event_name: str, property_key: str, start: int, end: int) -> list[tuple[Scalar, int, int]]: ...


@dataclass(frozen=True)
class RecordedRange:
    """What was recorded of one range: every query's answer."""

    label: str
    start: int
    end: int
    double_counted: bool
    """Whether the reference read its hours twice; then only the brute force is right."""
    brute_force: dict[str, int]
    results: dict[str, Any]

    @property
    def before_aggregation(self) -> bool:
        return self.label.startswith("before aggregation")

    @property
    def is_range(self) -> bool:
        """Whether it has any length; the reference answers 0 where it has none, we refuse."""
        return self.start < self.end

    def compare(self, answers: Answers) -> Iterator[tuple[str, object, object]]:
        """(query, recorded, answered) of everything recorded; what was not recorded is taken as answered."""
        answered = answers.overview(self.start, self.end)
        yield "overview", self._overview(answered), answered
        for name, length in (("hour", HOUR), ("day", DAY)):
            if not (name == "day" and self.double_counted):
                series = answers.timeseries(self.start, self.end, length)
                yield (
                    f"timeseries by {name}",
                    self._series(name),
                    [(start, *_flow(metrics)) for start, metrics in series],
                )
        for query, dimension in TOP_DIMENSIONS.items():
            if not self.double_counted:
                recorded = [(row["key"], row["count"], row["pageviewCount"]) for row in rows(self.results[query])]
                ranked = answers.top(dimension, self.start, self.end)
                got = [(key, metrics.events, metrics.pageviews) for key, metrics in ranked]
                yield f"top of {dimension}", sorted(recorded, key=by_count_and_key), got
        for query, values in self.results.items():
            if query.startswith("getEventPropertyBreakdown:"):
                _, event_name, key = query.split(":")
                got_values = answers.breakdown(event_name, key, self.start, self.end)
                # As text, because False is 0 and True is 1 to Python.
                yield (
                    query,
                    {(json_text(row["value"]), row["count"]) for row in values},
                    {(json_text(value), events) for value, events, _ in got_values},
                )

    def _overview(self, answered: Metrics) -> Metrics:
        recorded = self.brute_force if self.double_counted else self.results["getOverview"]
        return replace(
            answered,
            events=recorded["events"],
            pageviews=recorded["pageviews"],
            sessions=recorded["sessions"],
            new_visitors=recorded["visitors"],
            bounce_rate=self.results["getOverview"]["bounceRate"],
            average_session_duration=self.results["getOverview"]["averageSessionDurationMs"] * MILLISECOND,
        )

    def _series(self, name: str) -> list[tuple[int, ...]]:
        """The recorded buckets; our first one starts where the range does."""
        return [
            (max(start * MILLISECOND, self.start), *counts)
            for start, *counts in self.results[f"getTimeseries:{name}"]["rows"]
        ]


def _flow(metrics: Metrics) -> tuple[int, int, int, int]:
    return metrics.events, metrics.pageviews, metrics.sessions, metrics.new_visitors


def by_count_and_key(row: tuple[str, int, int]) -> tuple[int, bytes]:
    """Our order of a top list; the recorded one leaves ties to accident."""
    key, events, _ = row
    return -events, key.encode()


def recorded_ranges(steps: list[dict[str, Any]]) -> list[RecordedRange]:
    """The steps that query a range."""
    return [
        RecordedRange(
            label=step["label"],
            start=step["from"] * MILLISECOND,
            end=step["to"] * MILLISECOND,
            double_counted=step["referenceDoubleCounts"],
            brute_force=step["bruteForce"],
            results=step["results"],
        )
        for step in steps
        if step["op"] == "rangeQueries"
    ]


BASIC = read("01-basic.json")["steps"]
BASIC_BATCHES = [Batch(step["args"]) for step in BASIC if step["op"] == "ingestBatch"]
BASIC_RANGES = recorded_ranges(BASIC)
STREAM = read("02b-stream-results.json")["steps"]
STREAM_BATCHES = [Batch(batch) for batch in read("02a-stream-input.json")["batches"]]
STREAM_RANGES = recorded_ranges(STREAM)

AGGREGATED_RANGES = [recorded for recorded in BASIC_RANGES if not recorded.before_aggregation]
EVERYTHING = next(recorded for recorded in STREAM_RANGES if recorded.label == "five days around the data")


def recount_of(batches: list[Batch]) -> Recount:
    """The recount over the events of some batches."""
    return Recount([event for batch in batches for event in batch.raw_events()], SESSION_TIMEOUT)
