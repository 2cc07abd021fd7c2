"""A number is the same however its range is cut, and whichever zone's clock cuts it."""

from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

from footfall.query.v1 import query_pb2
from hypothesis import given
from hypothesis import strategies as st

from tests.oracle.answers import METRICS
from tests.oracle.raw_events import DAY, DIMENSIONS
from tests.oracle.zone_clocks import CALENDARS, changes_of, cuts_of
from tests.property import examples
from tests.property.driver import PlayedSite, play
from tests.property.streams import MIDNIGHTS, Stream, histories, spans, streams, whole
from tests.support.footfall_site import metrics_of, time_range
from tests.support.hands import Hands

SUMS = ("events", "pageviews", "sessions", "new_visitors")
# Most zones do not change their clocks any more, so those that do come more often.
zones = st.one_of(
    st.sampled_from(("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia")),
    st.sampled_from(sorted(available_timezones() - {"localtime"})),
).map(ZoneInfo)


@given(data=st.data(), stream=streams())
@examples(0.12)
def test_the_parts_of_a_range_add_up_to_the_whole(hands: Hands, data: st.DataObject, stream: Stream) -> None:
    """For events, pageviews, sessions and new visitors, of the overview and under every key of every dimension; the
    visitors of the whole are no fewer than any part's and no more than all parts'."""
    [site] = play(hands, [stream], data.draw(histories([stream], asks=0), label="history"))
    start, end = data.draw(st.one_of(st.just(whole(stream)), spans(stream)), label="whole")
    inner = {cut for _ in range(3) for cut in data.draw(spans(stream), label="cuts") if start < cut < end}
    parts = list(pairwise(sorted({start, end} | inner)))
    total, pieces = site.site.overview(start, end), [site.site.overview(*part) for part in parts]
    for name in SUMS:
        assert getattr(total, name) == sum(getattr(piece, name) for piece in pieces), name
    assert max(piece.visitors for piece in pieces) <= total.visitors <= sum(piece.visitors for piece in pieces)
    for dimension in DIMENSIONS:
        sums: dict[str, list[int]] = {}
        for part in parts:
            for key, metrics in site.site.top(dimension, *part):
                own = sums.setdefault(key, [0] * len(SUMS))
                sums[key] = [one + getattr(metrics, name) for one, name in zip(own, SUMS, strict=True)]
        rows = {key: [getattr(row, name) for name in SUMS] for key, row in site.site.top(dimension, start, end)}
        assert rows == sums, dimension


@given(data=st.data(), zone=zones)
@examples(0.12)
def test_buckets_are_the_zones_own(hands: Hands, data: st.DataObject, zone: ZoneInfo) -> None:
    """Hours, days, weeks from Monday and months of any IANA zone begin where its clock says, and each is the recount
    of its events, also where the clock changes."""
    stream = data.draw(streams(midnights=changes_of(zone) or MIDNIGHTS), label="stream")
    [site] = play(hands, [stream], data.draw(histories([stream], asks=0), label="history"))
    recount = site.recount()
    start, end = data.draw(st.one_of(st.just(whole(stream)), spans(stream)), label="span")
    before, after = data.draw(st.integers(0, 2)), data.draw(st.integers(0, 2))
    start, end = start - before * DAY, min(end, start + 40 * DAY) + after * DAY
    for interval in ("INTERVAL_HOUR", *CALENDARS):
        request = query_pb2.GetTimeseriesRequest(
            site=site.site.slug,
            range=time_range(start, end),
            interval=query_pb2.Interval.Value(interval),
            time_zone=zone.key,
        )
        response = site.site.query.GetTimeseries(request, metadata=site.site.as_admin)
        buckets = [(bucket.start_time.ToMicroseconds(), metrics_of(bucket.metrics)) for bucket in response.buckets]
        assert buckets == recount.buckets([start, *cuts_of(zone, interval, start, end), end]), interval
        assert response.time_zone == zone.key


@given(data=st.data(), stream=streams())
@examples(0.05)
def test_a_top_list_is_ranked_by_any_metric_and_cut_anywhere(hands: Hands, data: st.DataObject, stream: Stream) -> None:
    """Largest first, ties by the key's bytes; and the values of a property likewise."""
    [site] = play(hands, [stream], data.draw(histories([stream], asks=0), label="history"))
    recount = site.recount()
    span = data.draw(st.one_of(st.just(whole(stream)), spans(stream)), label="span")
    for dimension in DIMENSIONS:
        order_by, limit = data.draw(st.sampled_from(METRICS)), data.draw(st.sampled_from((1, 2, 1000)))
        rows = site.site.top(dimension, *span, order_by=order_by, limit=limit)
        assert rows == recount.top(dimension, *span, order_by=order_by)[:limit], (dimension, order_by)
    for name in ("identify", "pageview", "buy"):
        check_breakdown(site, name, span)


@given(data=st.data(), stream=streams(), zone=zones, interval=st.sampled_from(tuple(CALENDARS)))
@examples(0.05)
def test_a_dashboard_is_the_recount_of_both_its_ranges(
    hands: Hands, data: st.DataObject, stream: Stream, zone: ZoneInfo, interval: str
) -> None:
    """Overview, buckets and tops of the range and of the one it is compared with; all say what is still pending."""
    [site] = play(hands, [stream], data.draw(histories([stream], asks=0), label="history"))
    recount = site.recount()
    ranges = [whole(stream), data.draw(spans(stream), label="compared with")]
    tops = [query_pb2.TopSpec(dimension=query_pb2.Dimension.Value(f"DIMENSION_{name.upper()}")) for name in DIMENSIONS]
    request = query_pb2.GetDashboardRequest(
        site=site.site.slug,
        range=time_range(*ranges[0]),
        comparison_range=time_range(*ranges[1]),
        interval=query_pb2.Interval.Value(interval),
        time_zone=zone.key,
        tops=tops,
    )
    response = site.site.query.GetDashboard(request, metadata=site.site.as_admin)
    for (start, end), told in zip(ranges, (response.dashboard, response.comparison), strict=True):
        assert metrics_of(told.metrics) == recount.overview(start, end)
        buckets = [(bucket.start_time.ToMicroseconds(), metrics_of(bucket.metrics)) for bucket in told.buckets]
        assert buckets == recount.buckets([start, *cuts_of(zone, interval, start, end), end])
        for dimension, top in zip(DIMENSIONS, told.tops, strict=True):
            assert [(row.key, metrics_of(row.metrics)) for row in top.rows] == recount.top(dimension, start, end)[:10]
        assert told.metadata.effective_range == time_range(start, end)
        assert told.metadata.pending_events == len(site.pending())


def check_breakdown(site: PlayedSite, name: str, span: tuple[int, int]) -> None:
    """The values of the property "plan" under one event."""
    assert site.site.breakdown(name, "plan", *span) == site.recount().breakdown(name, "plan", *span), name
