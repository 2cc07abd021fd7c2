"""The recorded cases, replayed through ingest, aggregation and queries of the running services."""

from datetime import timedelta
from itertools import pairwise, permutations
from random import Random
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from footfall.ingest.v1 import ingest_pb2
from footfall.query.v1 import query_pb2
from footfall.type.v1 import event_pb2

from tests.oracle.recorded_cases import (
    BASIC,
    BASIC_BATCHES,
    BASIC_RANGES,
    SESSION_TIMEOUT,
    STREAM,
    STREAM_BATCHES,
    STREAM_RANGES,
    TOP_DIMENSIONS,
    Batch,
    RecordedRange,
    by_count_and_key,
    rows,
)
from tests.oracle.recount import DAY, DIMENSIONS, METRICS, MILLISECOND, MINUTE, Metrics, Recount, Scalar, json_text
from tests.support.footfall_site import FootfallSite, time_range

if TYPE_CHECKING:
    from tests.support.suite import Suite

NOTHING = Metrics(0, 0, 0, 0, 0, 0.0, 0.0)
AGGREGATED_RANGES = [recorded for recorded in BASIC_RANGES if not recorded.before_aggregation]
EVERYTHING = next(recorded for recorded in STREAM_RANGES if recorded.label == "five days around the data")


def recount_of(batches: list[Batch]) -> Recount:
    return Recount([event for batch in batches for event in batch.raw_events()], SESSION_TIMEOUT)


def ingest(site: FootfallSite, batches: list[Batch]) -> None:
    for batch in batches:
        response = site.send(batch.request())
        assert (response.accepted, response.duplicate, response.rejected) == (len(batch.raw_events()), 0, 0)


def as_text(rows: list[tuple[Scalar, int, int]]) -> list[tuple[str, int, int]]:
    return [(json_text(value), events, visitors) for value, events, visitors in rows]


def labels(ranges: list[RecordedRange], *, real: bool = True) -> list[Any]:
    return [pytest.param(one, id=one.label) for one in ranges if one.is_range is real]


@pytest.fixture(scope="module")
def basic(suite: "Suite") -> FootfallSite:
    """The first case, aggregated, over eight partitions."""
    site = FootfallSite(suite, "golden-basic", rollup_shard_count=8)
    ingest(site, BASIC_BATCHES)
    assert site.aggregate() == 8
    return site


@pytest.fixture(scope="module")
def stream(suite: "Suite") -> FootfallSite:
    """The stream, aggregated after every batch, over one partition."""
    site = FootfallSite(suite, "golden-stream", rollup_shard_count=1)
    for batch in STREAM_BATCHES:
        ingest(site, [batch])
        assert site.aggregate() == len(batch.raw_events())
    return site


@pytest.mark.parametrize("recorded", labels(AGGREGATED_RANGES))
def test_the_basic_case_gives_the_recorded_answers(basic: FootfallSite, recorded: RecordedRange) -> None:
    for query, expected, answered in recorded.compare(basic):
        assert answered == expected, query


@pytest.mark.parametrize("recorded", labels(STREAM_RANGES))
def test_the_stream_gives_the_recorded_answers(stream: FootfallSite, recorded: RecordedRange) -> None:
    for query, expected, answered in recorded.compare(stream):
        assert answered == expected, query


@pytest.mark.parametrize("recorded", labels(AGGREGATED_RANGES))
def test_the_basic_case_equals_the_recount(basic: FootfallSite, recorded: RecordedRange) -> None:
    """Distinct visitors, entry and exit pages, sessions and events too, which were not recorded."""
    for query, counted, answered in basic.compare(recount_of(BASIC_BATCHES), recorded.start, recorded.end):
        assert answered == counted, query


@pytest.mark.parametrize("recorded", labels(STREAM_RANGES))
def test_the_stream_equals_the_recount(stream: FootfallSite, recorded: RecordedRange) -> None:
    for query, counted, answered in stream.compare(recount_of(STREAM_BATCHES), recorded.start, recorded.end):
        assert answered == counted, query


@pytest.mark.parametrize("recorded", labels(STREAM_RANGES))
def test_every_breakdown_of_the_stream_equals_the_recount(stream: FootfallSite, recorded: RecordedRange) -> None:
    """With distinct visitors and in order, which were not recorded."""
    recount = recount_of(STREAM_BATCHES)
    for query in recorded.results:
        if query.startswith("getEventPropertyBreakdown:"):
            _, name, key = query.split(":")
            counted = recount.breakdown(name, key, recorded.start, recorded.end)
            answered = stream.breakdown(name, key, recorded.start, recorded.end)
            # The values as text, because 0 and 1 are False and True to Python.
            assert as_text(answered) == as_text(counted), query


@pytest.mark.parametrize("order_by", METRICS)
def test_a_top_list_is_ranked_by_any_metric_and_ties_by_key(stream: FootfallSite, order_by: str) -> None:
    """A shorter list is the beginning of a longer one."""
    span = EVERYTHING.start, EVERYTHING.end
    for dimension in DIMENSIONS:
        counted = recount_of(STREAM_BATCHES).top(dimension, *span, order_by)
        ranked = stream.top(dimension, *span, order_by)
        assert dict(ranked) == dict(counted)
        for (key, metrics), (next_key, next_metrics) in pairwise(ranked):
            value, next_value = getattr(metrics, order_by), getattr(next_metrics, order_by)
            assert value > next_value or (value == next_value and key.encode() < next_key.encode())
        for limit in (1, 3):
            assert stream.top(dimension, *span, order_by, limit) == ranked[:limit]


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(step, id=f"{step['op']} {step['args'].get('limit')}")
        for step in STREAM
        if step["op"] in TOP_DIMENSIONS
    ],
)
def test_a_cut_top_list_gives_the_recorded_rows_up_to_ties(stream: FootfallSite, step: dict[str, Any]) -> None:
    """Limit 0, which gave nothing there, is the default of 10 here."""
    dimension, limit = TOP_DIMENSIONS[step["op"]], step["args"]["limit"]
    span = step["args"]["from"] * MILLISECOND, step["args"]["to"] * MILLISECOND
    whole = [(key, metrics.events, metrics.pageviews) for key, metrics in stream.top(dimension, *span)]
    cut = [(key, row.events, row.pageviews) for key, row in stream.top(dimension, *span, limit=limit)]
    assert whole == sorted(whole, key=by_count_and_key)
    assert cut == whole[: limit or 10]
    recorded = [(row["key"], row["count"], row["pageviewCount"]) for row in step["result"]]
    assert set(recorded) <= set(whole)
    assert [row[1] for row in recorded] == [row[1] for row in cut[: len(recorded)]]


@pytest.mark.parametrize("recorded", labels(AGGREGATED_RANGES + STREAM_RANGES, real=False))
def test_a_range_without_length_is_refused(basic: FootfallSite, recorded: RecordedRange) -> None:
    """The reference answered zeros for it."""
    with pytest.raises(grpc.RpcError) as refused:
        basic.overview(recorded.start, recorded.end)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_negative_limit_is_refused(basic: FootfallSite) -> None:
    """The reference cut that many rows off the end."""
    for step in BASIC:
        if step["op"] in TOP_DIMENSIONS and step["args"].get("limit", 0) < 0:
            with pytest.raises(grpc.RpcError) as refused:
                basic.top(TOP_DIMENSIONS[step["op"]], 0, EVERYTHING.end, limit=step["args"]["limit"])
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_before_aggregation_no_report_counts_anything_but_the_events_are_listed(suite: "Suite") -> None:
    """Also in a part of an hour, where the reference did; the metadata says how much is pending."""
    site = FootfallSite(suite, "golden-pending")
    ingest(site, BASIC_BATCHES)
    for recorded in BASIC_RANGES:
        if recorded.is_range:
            span = recorded.start, recorded.end
            assert site.overview(*span) == NOTHING
            assert not any(site.top(dimension, *span) for dimension in DIMENSIONS)
            assert site.breakdown("identify", "plan", *span) == []
    assert len(site.events()) == 8
    assert site.session_rows() == []
    report = site.query.GetOverview(
        query_pb2.GetOverviewRequest(site=site.slug, range=time_range(0, EVERYTHING.end)),
        metadata=site.as_admin,
    )
    assert report.metadata.pending_events == 8
    assert report.metadata.exact


def test_a_report_of_aggregated_events_says_that_it_is_whole(basic: FootfallSite) -> None:
    """exact, over the very range that was asked for, with nothing pending."""
    span = time_range(1, EVERYTHING.end)
    request = query_pb2.GetOverviewRequest(site=basic.slug, range=span)
    metadata = basic.query.GetOverview(request, metadata=basic.as_admin).metadata
    assert (metadata.exact, metadata.effective_range, metadata.pending_events) == (True, span, 0)
    stored = basic.query.ListEvents(query_pb2.ListEventsRequest(site=basic.slug), metadata=basic.as_admin)
    received = max(event.received_at.ToMicroseconds() for event in stored.events)
    assert metadata.aggregated_through.ToMicroseconds() >= received


def test_raw_events_are_listed_as_recorded(basic: FootfallSite) -> None:
    """Newest first, with and without a range; an event's user is what its sender said."""
    columns = {
        "occurredAt": "occurred_at",
        "visitorId": "visitor_id",
        "sessionId": "session_id",
        "path": "path",
        "title": "title",
        "referrer": "referrer",
        "source": "source",
        "utmSource": "utm_source",
        "utmCampaign": "utm_campaign",
        "dedupeKey": "event_id",
        "identifiedUserId": "user_id",
        "eventType": "type",
        "properties": "properties",
    }
    for step in BASIC:
        if step["op"] == "listRawEvents":
            args = step["args"]
            span = (args["from"] * MILLISECOND, args["to"] * MILLISECOND) if args else None
            listed = basic.events(span)
            recorded = rows(step["result"])
            assert len(listed) == len(recorded)
            for event, row in zip(listed, recorded, strict=True):
                for column, name in columns.items():
                    if name == "properties":
                        assert event.properties == row.get(column, {})
                    elif name == "occurred_at":
                        assert event.occurred_at == row[column] * MILLISECOND
                    else:
                        assert getattr(event, name) == row.get(column, ""), column


def test_raw_events_come_in_the_recorded_pages(basic: FootfallSite) -> None:
    [step] = [step for step in BASIC if step["op"] == "listRawEventsPaged"]
    span = time_range(step["args"]["from"] * MILLISECOND, step["args"]["to"] * MILLISECOND)
    request = query_pb2.ListEventsRequest(site=basic.slug, range=span, page_size=step["numItems"])
    for recorded in step["pages"]:
        page = basic.query.ListEvents(request, metadata=basic.as_admin)
        times = [event.occurred_at.ToMilliseconds() for event in page.events]
        assert times == [row["occurredAt"] for row in recorded["rows"]]
        assert page.has_more is not recorded["isDone"]
        request.page_token = page.next_page_token


@pytest.mark.parametrize("page_size", [1, 7, 640, 1000])
def test_pages_of_any_size_hold_every_row_once(stream: FootfallSite, page_size: int) -> None:
    assert stream.events(page_size=page_size) == stream.events()
    assert stream.session_rows(page_size=page_size) == stream.session_rows()
    assert stream.visitors(page_size=page_size) == stream.visitors()
    assert len(stream.events()) == 640
    assert len(stream.session_rows()) == 66
    assert len(stream.visitors()) == len({event.visitor_id for event in recount_of(STREAM_BATCHES).all_events})


def test_the_pages_of_a_list_hold_every_row_once_while_rows_arrive(suite: "Suite") -> None:
    """What was there at the first page is seen once, whatever is stored meanwhile."""
    site = FootfallSite(suite, "golden-arrivals")
    ingest(site, STREAM_BATCHES[1::2])
    there = {event.event_id for batch in STREAM_BATCHES[1::2] for event in batch.raw_events()}
    seen: list[str] = []
    request = query_pb2.ListEventsRequest(site=site.slug, page_size=20)
    arriving = iter(STREAM_BATCHES[0::2])
    while True:
        page = site.query.ListEvents(request, metadata=site.as_admin)
        seen += [event.event_id for event in page.events]
        if not page.has_more:
            break
        request.page_token = page.next_page_token
        ingest(site, [batch for _, batch in zip(range(4), arriving, strict=False)])
    assert len(seen) == len(set(seen))
    assert there <= set(seen)


@pytest.mark.parametrize("partitions", [1, 5, 64])
def test_the_order_of_arrival_changes_nothing(suite: "Suite", partitions: int) -> None:
    """Single events in random batches, aggregated in small pages in between, over any number of partitions."""
    random = Random(partitions)
    site = FootfallSite(suite, f"golden-shuffled-{partitions}", rollup_shard_count=partitions)
    events = [(batch.request().defaults, event) for batch in STREAM_BATCHES for event in batch.request().events]
    random.shuffle(events)
    while events:
        for defaults, event in (events.pop() for _ in range(min(len(events), random.randrange(1, 60)))):
            response = site.send(ingest_pb2.IngestBatchRequest(defaults=defaults, events=[event]))
            assert response.accepted == 1
        site.aggregate(limit=random.randrange(1, 20))
    for recorded in (one for one in STREAM_RANGES if one.is_range):
        for query, counted, answered in site.compare(recount_of(STREAM_BATCHES), recorded.start, recorded.end):
            assert answered == counted, (recorded.label, query)


@pytest.mark.parametrize("arrival", list(permutations(range(3))))
def test_a_gap_of_exactly_the_timeout_goes_on_and_one_longer_ends_a_session(
    suite: "Suite", arrival: tuple[int, ...]
) -> None:
    """To the microsecond, whatever comes first; which the recorded stream does not try."""
    site = FootfallSite(suite, "golden-gap", session_timeout=timedelta(seconds=60))
    start = BASIC_RANGES[0].start
    times = [start, start + MINUTE, start + 2 * MINUTE + 1]
    for number in arrival:
        request = ingest_pb2.IngestBatchRequest(
            events=[ingest_pb2.Event(type=event_pb2.EVENT_TYPE_PAGEVIEW, visitor_id="v", path=f"/{number}")]
        )
        request.events[0].occurred_at.FromMicroseconds(times[number])
        site.send(request)
        site.aggregate()
    rows = site.session_rows()
    assert [(row.entry_page, row.exit_page, row.new_visitor) for row in rows] == [
        ("/2", "/2", False),
        ("/0", "/1", True),
    ]
    assert [row.end - row.start for row in rows] == [0, MINUTE]
    assert site.overview(start, start + DAY).sessions == 2


def test_a_replayed_batch_is_duplicate_and_changes_nothing(suite: "Suite") -> None:
    """Before and after aggregation, and within one batch."""
    site = FootfallSite(suite, "golden-again")
    ingest(site, BASIC_BATCHES)
    for _ in range(2):
        for batch in BASIC_BATCHES:
            response = site.send(batch.request())
            assert (response.accepted, response.duplicate) == (0, len(batch.raw_events()))
        site.aggregate()
    twice = STREAM_BATCHES[0].request()
    twice.events.extend(STREAM_BATCHES[0].request().events)
    response = site.send(twice)
    assert (response.accepted, response.duplicate) == (2, 2)
    site.aggregate()
    recount = recount_of([*BASIC_BATCHES, STREAM_BATCHES[0]])
    for query, counted, answered in site.compare(recount, BASIC_RANGES[0].start, EVERYTHING.end):
        assert answered == counted, query
