"""The recorded cases, replayed through ingest, aggregation and queries of the running services."""

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from footfall.query.v1 import query_pb2

from tests.oracle.answers import METRICS, Metrics
from tests.oracle.raw_events import DIMENSIONS, MILLISECOND, Scalar, json_text
from tests.oracle.recorded_cases import (
    BASIC,
    BASIC_BATCHES,
    BASIC_RANGES,
    STREAM,
    STREAM_BATCHES,
    STREAM_RANGES,
    TOP_DIMENSIONS,
    RecordedRange,
    by_count_and_key,
)
from tests.support.footfall_site import FootfallSite, time_range

if TYPE_CHECKING:
    from tests.support.suite import Suite
from tests.oracle.recorded_cases import AGGREGATED_RANGES, EVERYTHING, recount_of
from tests.support.recorded_sites import ingest

NOTHING = Metrics(0, 0, 0, 0, 0, 0.0, 0.0)


def as_text(rows: list[tuple[Scalar, int, int]]) -> list[tuple[str, int, int]]:
    return [(json_text(value), events, visitors) for value, events, visitors in rows]


def labels(ranges: list[RecordedRange], *, real: bool = True) -> list[Any]:
    return [pytest.param(one, id=one.label) for one in ranges if one.is_range is real]


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
    for query, expected, answered in basic.compare(recount_of(BASIC_BATCHES), recorded.start, recorded.end):
        assert answered == expected, query


@pytest.mark.parametrize("recorded", labels(STREAM_RANGES))
def test_the_stream_equals_the_recount(stream: FootfallSite, recorded: RecordedRange) -> None:
    for query, expected, answered in stream.compare(recount_of(STREAM_BATCHES), recorded.start, recorded.end):
        assert answered == expected, query


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
