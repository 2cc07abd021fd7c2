"""Several reports in one call."""

import grpc
import pytest
from footfall.query.v1 import query_pb2

from tests.oracle.recorded_cases import STREAM_BATCHES
from tests.support.footfall_site import FootfallSite, time_range
from tests.support.suite import Suite

HOUR = 3_600_000_000
START = 1_767_571_200_000_000
SPAN = (START + 90_000_001, START + 40 * HOUR + 1)
BEFORE = (START, START + 30 * HOUR)


@pytest.fixture(scope="module")
def stream(suite: Suite) -> FootfallSite:
    """A site with three days of traffic."""
    site = FootfallSite(suite, "dashboard")
    for batch in STREAM_BATCHES:
        site.send(batch.request())
    site.aggregate()
    return site


def ask(suite: Suite, method: str, request: object) -> object:
    return getattr(suite.query_stub(), method)(request, metadata=(("authorization", f"Bearer {suite.admin_key}"),))


@pytest.mark.parametrize("interval", [query_pb2.INTERVAL_HOUR, query_pb2.INTERVAL_DAY, query_pb2.INTERVAL_WEEK])
def test_a_dashboard_is_its_reports_over_both_ranges(
    suite: Suite, stream: FootfallSite, interval: query_pb2.Interval.ValueType
) -> None:
    """Each part equals the report asked for alone, in the order asked for, and so does the comparison."""
    specs = [
        query_pb2.TopSpec(dimension=query_pb2.DIMENSION_PAGE, limit=3),
        query_pb2.TopSpec(dimension=query_pb2.DIMENSION_EXIT_PAGE, order_by=query_pb2.ORDER_BY_VISITORS),
        query_pb2.TopSpec(dimension=query_pb2.DIMENSION_PAGE, order_by=query_pb2.ORDER_BY_BOUNCE_RATE),
    ]
    zone = "Asia/Kolkata"
    answer = ask(
        suite,
        "GetDashboard",
        query_pb2.GetDashboardRequest(
            site=stream.slug,
            range=time_range(*SPAN),
            comparison_range=time_range(*BEFORE),
            interval=interval,
            time_zone=zone,
            tops=specs,
        ),
    )
    assert isinstance(answer, query_pb2.GetDashboardResponse)
    assert answer.time_zone == zone
    for part, span in ((answer.dashboard, SPAN), (answer.comparison, BEFORE)):
        overview = ask(suite, "GetOverview", query_pb2.GetOverviewRequest(site=stream.slug, range=time_range(*span)))
        assert isinstance(overview, query_pb2.GetOverviewResponse)
        assert part.metrics == overview.metrics
        assert part.metrics.events > 0
        assert part.metadata.effective_range == time_range(*span)
        series = ask(
            suite,
            "GetTimeseries",
            query_pb2.GetTimeseriesRequest(
                site=stream.slug, range=time_range(*span), interval=interval, time_zone=zone
            ),
        )
        assert isinstance(series, query_pb2.GetTimeseriesResponse)
        assert list(part.buckets) == list(series.buckets)
        for spec, top in zip(specs, part.tops, strict=True):
            alone = ask(
                suite,
                "GetTop",
                query_pb2.GetTopRequest(
                    site=stream.slug,
                    range=time_range(*span),
                    dimension=spec.dimension,
                    limit=spec.limit,
                    order_by=spec.order_by,
                ),
            )
            assert isinstance(alone, query_pb2.GetTopResponse)
            assert top.dimension == spec.dimension
            assert list(top.rows) == list(alone.rows)


def test_a_report_takes_a_second_range_and_answers_both(suite: Suite, stream: FootfallSite) -> None:
    """The comparison of an overview and of a timeseries equals the report over that range; without one it is absent."""
    both = ask(
        suite,
        "GetOverview",
        query_pb2.GetOverviewRequest(site=stream.slug, range=time_range(*SPAN), comparison_range=time_range(*BEFORE)),
    )
    alone = ask(suite, "GetOverview", query_pb2.GetOverviewRequest(site=stream.slug, range=time_range(*BEFORE)))
    assert isinstance(both, query_pb2.GetOverviewResponse)
    assert isinstance(alone, query_pb2.GetOverviewResponse)
    assert both.comparison_metrics == alone.metrics
    assert both.comparison_metadata.effective_range == time_range(*BEFORE)
    assert not alone.HasField("comparison_metrics")
    request = query_pb2.GetTimeseriesRequest(
        site=stream.slug, range=time_range(*SPAN), interval=query_pb2.INTERVAL_HOUR
    )
    request.comparison_range.CopyFrom(time_range(*BEFORE))
    compared = ask(suite, "GetTimeseries", request)
    assert isinstance(compared, query_pb2.GetTimeseriesResponse)
    assert sum(bucket.metrics.events for bucket in compared.comparison_buckets) == alone.metrics.events
    assert len(compared.comparison_buckets) == 30


def test_what_makes_no_sense_in_a_dashboard_is_named(suite: Suite, stream: FootfallSite) -> None:
    """INVALID_ARGUMENT names the list and the field, also of the second range."""
    good = query_pb2.GetDashboardRequest(site=stream.slug, range=time_range(*SPAN), interval=query_pb2.INTERVAL_DAY)
    for change, field in (
        (
            query_pb2.GetDashboardRequest(
                tops=[query_pb2.TopSpec(dimension=query_pb2.DIMENSION_PAGE), query_pb2.TopSpec()]
            ),
            "tops[1].dimension",
        ),
        (
            query_pb2.GetDashboardRequest(tops=[query_pb2.TopSpec(dimension=query_pb2.DIMENSION_PAGE, limit=-1)]),
            "tops[0].limit",
        ),
        (query_pb2.GetDashboardRequest(tops=[query_pb2.TopSpec(dimension=query_pb2.DIMENSION_PAGE)] * 21), "tops"),
        (
            query_pb2.GetDashboardRequest(comparison_range=time_range(BEFORE[1], BEFORE[0])),
            "comparison_range.end_time",
        ),
    ):
        request = query_pb2.GetDashboardRequest()
        request.CopyFrom(good)
        request.MergeFrom(change)
        with pytest.raises(grpc.RpcError) as caught:
            ask(suite, "GetDashboard", request)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert (caught.value.details() or "").startswith(f"{field}: ")
