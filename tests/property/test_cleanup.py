"""Cleanup changes nothing that can still be answered exactly, and says so where it cannot."""

from functools import partial
from typing import Any

from footfall.query.v1 import query_pb2
from hypothesis import given
from hypothesis import strategies as st

from admin_svc.counting import compact
from admin_svc.maintenance import cleanup
from tests.oracle.answers import Metrics
from tests.oracle.raw_events import DAY, DIMENSIONS, HOUR
from tests.property import examples
from tests.property.driver import PlayedSite, play
from tests.property.streams import Stream, histories, limits, spans, streams, whole
from tests.support.cuts import Scissors, cut_everywhere
from tests.support.erasing import erase_all
from tests.support.footfall_site import metrics_of, time_range
from tests.support.hands import Hands
from tests.support.upkeep import FOR_EVER, cleanup_chunk, counts_of, everything, instant, keep_all

retentions = st.sampled_from((1, 2, 3, 10))
Span = tuple[int, int]


def effective(metadata: query_pb2.ReportMetadata) -> Span:
    """The range that was answered."""
    span = metadata.effective_range
    return span.start_time.ToMicroseconds(), span.end_time.ToMicroseconds()


def says(metadata: query_pb2.ReportMetadata, asked: Span) -> Span:
    """The range that was answered; `exact` tells whether it is the one asked for."""
    found = effective(metadata)
    assert metadata.exact == (found == asked)
    # It may end early only where nothing is left at all.
    assert found[1] >= asked[1]
    return found


def check_span(site: PlayedSite, asked: Span) -> tuple[Span, list[Any]]:
    """Every report of the range is the recount of the range it says it is of. What was answered, and the range."""
    recount, footfall = site.recount(), site.site
    fields: dict[str, Any] = {"site": footfall.slug, "range": time_range(*asked)}
    overview = footfall.query.GetOverview(query_pb2.GetOverviewRequest(**fields), metadata=footfall.as_admin)
    span = says(overview.metadata, asked)
    answers: list[Any] = [overview.metrics]
    assert metrics_of(overview.metrics) == recount.overview(*span), (asked, span)
    for interval in (query_pb2.INTERVAL_HOUR, query_pb2.INTERVAL_DAY):
        of_buckets = query_pb2.GetTimeseriesRequest(**fields, interval=interval)
        series = footfall.query.GetTimeseries(of_buckets, metadata=footfall.as_admin)
        answers.append(series.buckets)
        start, end = effective(series.metadata)
        cuts = [*(bucket.start_time.ToMicroseconds() for bucket in series.buckets), end]
        if series.buckets:
            assert cuts[0] == start
        if series.metadata.exact:
            assert (start, end) == asked
        assert [metrics_of(bucket.metrics) for bucket in series.buckets] == [
            metrics for _, metrics in recount.buckets(cuts)
        ], (asked, interval)
    for name in DIMENSIONS:
        dimension = query_pb2.Dimension.Value(f"DIMENSION_{name.upper()}")
        of_keys = query_pb2.GetTopRequest(**fields, dimension=dimension, limit=1000)
        top = footfall.query.GetTop(of_keys, metadata=footfall.as_admin)
        answers.append(top.rows)
        assert says(top.metadata, asked) == span
        rows: list[tuple[str, Metrics]] = [(row.key, metrics_of(row.metrics)) for row in top.rows]
        assert rows == recount.top(name, *span), (name, asked, span)
    return span, answers


@given(data=st.data(), stream=streams(most=14))
@examples(0.1)
def test_reports_over_what_remains_do_not_change_and_others_say_what_they_are_of(
    hands: Hands, data: st.DataObject, stream: Stream
) -> None:
    """Between any two chunks of any sizes, with events pending and deltas not compacted: every report is the recount of
    the range that it says it is of, and a range behind all cut-offs is answered as it was asked."""
    [site] = play(hands, [stream], data.draw(histories([stream], asks=0), label="history"))
    if data.draw(st.booleans(), label="all aggregated"):
        site.drain()
    for _ in range(data.draw(st.integers(0, 12), label="compactions")):
        site.compact(data.draw(limits, label="chunk"))
    raw, hourly = data.draw(retentions, label="raw"), data.draw(retentions, label="hourly")
    daily = data.draw(st.one_of(st.none(), retentions), label="daily")
    keep_all(site.site, raw, hourly, daily)
    turn = data.draw(st.sampled_from([event.occurred_at for event in stream.events]), label="turn")
    beside = data.draw(st.sampled_from((0, 1, HOUR // 2, HOUR, DAY - 1, DAY)), label="beside")
    now = turn + data.draw(st.sampled_from((raw, hourly, daily or raw)), label="of") * DAY + beside
    asked = [whole(stream), *(data.draw(spans(stream), label="span") for _ in range(3))]

    before = [check_span(site, span) for span in asked]
    assert [span for span, _ in before] == asked
    events, pending = site.site.events(), site.pending()
    promised = now - min(days for days in (raw, hourly, daily) if days is not None) * DAY
    token, has_more, chunks = "", True, 0
    while has_more:
        chunk = cleanup_chunk(site.site, now, limit=data.draw(limits, label="chunk"), token=token)
        token, has_more, chunks = chunk.next_page_token, chunk.has_more, chunks + 1
        assert chunks < 2_000
        for span, (_, answers) in zip(asked, before, strict=True):
            remaining, now_answered = check_span(site, span)
            if span[0] >= promised:
                assert remaining == span
            if remaining == span:
                # The overview and the tops are what they were, to the byte.
                assert [now_answered[0], *now_answered[3:]] == [answers[0], *answers[3:]]
        if chunks % 7 == 0 and data.draw(st.booleans(), label="compact between"):
            compact.compact(hands.connection, site.site_id, instant(now), 3)
    # Lists show all that was not to go, newest first, and what is pending stays pending.
    assert site.pending() == pending
    cut = (now - raw * DAY) // HOUR * HOUR
    left = site.site.events()
    assert left == [event for event in events if event in left]
    assert {event.event_id for event in events if event.occurred_at >= cut} <= {event.event_id for event in left}
    assert sum(event.occurred_at < cut for event in left) <= len(pending)


@given(data=st.data(), stream=streams(most=14))
@examples(0.06)
def test_reports_over_days_without_hour_rows_still_count_an_erased_visitor(
    hands: Hands, data: st.DataObject, stream: Stream
) -> None:
    """Every report is the recount, with the erased events, of the range that it says it is of: a bound inside a day
    moves where the day's raw events lack any that the range asks for."""
    [site] = play(hands, [stream], data.draw(histories([stream], asks=0), label="history"))
    site.drain()
    site.compact_all()
    keep_all(site.site, FOR_EVER, 1, None)
    turn = data.draw(st.sampled_from([event.occurred_at for event in stream.events]), label="turn")
    while cleanup_chunk(site.site, turn + data.draw(st.sampled_from((1, 2)), label="days") * DAY).has_more:
        pass
    visitors = sorted({event.visitor_id for event in stream.events})
    for visitor in data.draw(st.lists(st.sampled_from(visitors), unique=True, max_size=2), label="erased"):
        erase_all(site.site, visitor_id=visitor)
    for span in (whole(stream), *(data.draw(spans(stream), label="span") for _ in range(6))):
        check_span(site, span)


@given(data=st.data(), stream=streams(most=7))
@examples(0.04)
def test_a_cleanup_cut_after_any_statement_deletes_nothing(hands: Hands, data: st.DataObject, stream: Stream) -> None:
    """Until its COMMIT every row and floor of a chunk is as it was; the next try deletes what that one would have."""
    [site] = play(hands, [stream], data.draw(histories([stream], asks=0), label="history"))
    site.drain()
    if data.draw(st.booleans(), label="compacted"):
        site.compact_all()
    keep_all(site.site, 1, 2, 3)
    now = whole(stream)[1] + data.draw(st.integers(0, 4), label="days") * DAY
    for limit in (data.draw(st.sampled_from((1, 3, 7, 50))), 20_000):
        run = partial(_cleanup, site, now, limit)
        assert cut_everywhere(hands.suite.database_url, run, lambda: everything(hands.connection, site.site_id)) >= 3
    assert not cleanup_chunk(site.site, now, limit=1).has_more
    assert sum(counts_of(cleanup_chunk(site.site, now)).values()) == 0
    check_span(site, whole(stream))


def _cleanup(site: PlayedSite, now: int, limit: int, scissors: Scissors) -> None:
    with scissors.connection() as connection:
        cleanup.delete_expired(connection, site.site_id, instant(now), limit)
