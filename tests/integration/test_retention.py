"""Reports of a site whose old raw events, hour rows or day rows have gone: right for the range they say they are of."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import combinations
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import psycopg
import pytest
from footfall.query.v1 import query_pb2

from query_svc.range_plan import NOTHING_GONE, Floors
from tests.oracle.raw_events import DAY, DIMENSIONS, HOUR, MINUTE, SECOND, RawEvent
from tests.oracle.recount import Recount
from tests.oracle.zone_clocks import cuts_of
from tests.support.footfall_site import FootfallSite, metrics_of, time_range
from tests.support.retention import all_readable, clean_up
from tests.support.site_rows import site_id_of
from tests.support.suite import Suite
from tests.support.traffic import SESSION_TIMEOUT, START, batch_of, made_up
from tests.support.upkeep import compact

ZONES = ("UTC", "Asia/Kolkata", "Asia/Kathmandu")
INTERVALS = ("INTERVAL_HOUR", "INTERVAL_DAY")
# At, beside and between the floors below.
INSTANTS = [
    START - DAY,
    START + DAY + 3 * HOUR + 20 * MINUTE,
    START + 2 * DAY,
    START + 2 * DAY + 10 * HOUR + 30 * MINUTE,
    START + 3 * DAY + 5 * HOUR,
    START + 3 * DAY + 18 * HOUR + 30 * MINUTE + 1,
    START + 8 * DAY,
]
SPANS = list(combinations(INSTANTS, 2))
# From when on raw events, hour rows and day rows are left; None: all of them.
CASES: dict[str, tuple[int | None, int | None, int | None]] = {
    "raw events leave first": (START + 3 * DAY + 5 * HOUR, START + 2 * DAY + 7 * HOUR, None),
    "hour rows leave first": (START + 2 * DAY, START + 3 * DAY + 4 * HOUR, None),
    "day rows leave last": (START + 3 * DAY + 5 * HOUR, START + 2 * DAY + 7 * HOUR, START + DAY),
    "day rows leave first": (START + DAY + 3 * HOUR, START + 2 * DAY, START + 3 * DAY),
    "raw events leave in the middle of an hour": (START + 2 * DAY + 10 * HOUR + 20 * MINUTE, None, None),
    "everything has gone": (START + 30 * DAY, START + 30 * DAY, START + 30 * DAY),
}


class Cleaned(NamedTuple):
    """A site after its cleanup, the recount over everything it ever took, and what is left."""

    site: FootfallSite
    recount: Recount
    floors: Floors


@pytest.fixture(scope="module", params=CASES)
def cleaned(suite: Suite, database: psycopg.Connection[Any], request: pytest.FixtureRequest) -> Cleaned:
    """Some days of traffic, compacted and cleaned up; then some more of it came, which is not compacted."""
    raw, hours, days = (None if at is None else instant_of(at) for at in CASES[request.param])
    site = FootfallSite(suite, "retention", rollup_shard_count=3)
    events = [with_plan(event) for event in made_up(5, visitors=12, events=360)]
    later = [event for event in events if raw and instant_of(event.occurred_at) >= raw][::4]
    send(site, [event for event in events if event not in later])
    compact(site)
    clean_up(database, site_id_of(database, site), raw, hours, days)
    send(site, later)
    # Of an hour of which a part has gone nothing is read from raw events.
    whole = raw and raw + (datetime(1970, 1, 1, tzinfo=UTC) - raw) % timedelta(hours=1)
    floors = Floors(*(floor or NOTHING_GONE.raw for floor in (whole, hours, days)))
    return Cleaned(site, Recount(events, SESSION_TIMEOUT), floors)


def with_plan(event: RawEvent) -> RawEvent:
    """The event with a property."""
    return replace(event, properties={"plan": event.visitor_id[-1]})


def send(site: FootfallSite, events: list[RawEvent]) -> None:
    """Sends and aggregates."""
    for at in range(0, len(events), 100):
        site.send(batch_of(events[at : at + 100]))
    site.aggregate()


def instant_of(micros: int) -> datetime:
    return datetime.fromtimestamp(micros // SECOND, UTC) + timedelta(microseconds=micros % SECOND)


def effective(metadata: query_pb2.ReportMetadata) -> tuple[int, int]:
    """The range the answer says it is of."""
    told = metadata.effective_range
    return told.start_time.ToMicroseconds(), told.end_time.ToMicroseconds()


def check_metadata(cleaned: Cleaned, metadata: query_pb2.ReportMetadata, cuts: list[int]) -> None:
    """Exact when the data of every bucket is there; else of more than was asked, but for what has gone altogether."""
    (start, end), bottom = effective(metadata), min(cleaned.floors)
    assert metadata.exact == all_readable([instant_of(cut) for cut in cuts], cleaned.floors)
    if metadata.exact:
        assert (start, end) == (cuts[0], cuts[-1])
    elif instant_of(cuts[-1]) <= bottom:
        assert start == end
    else:
        assert instant_of(start) <= max(instant_of(cuts[0]), bottom)
        assert end >= cuts[-1]


@cache
def asked_cuts(zone: str, interval: str, span: tuple[int, int]) -> list[int]:
    """Where the zone's clock cuts the range, its ends included."""
    return [span[0], *cuts_of(ZoneInfo(zone), interval, *span), span[1]]


def test_an_overview_is_of_the_range_it_names(cleaned: Cleaned) -> None:
    """And a comparison likewise, each of its own range."""
    for span, other in zip(SPANS, SPANS[::-1], strict=True):
        request = query_pb2.GetOverviewRequest(
            site=cleaned.site.slug, range=time_range(*span), comparison_range=time_range(*other)
        )
        told = cleaned.site.query.GetOverview(request, metadata=cleaned.site.as_admin)
        answers = ((span, told.metadata, told.metrics), (other, told.comparison_metadata, told.comparison_metrics))
        for asked, metadata, metrics in answers:
            check_metadata(cleaned, metadata, list(asked))
            assert metrics_of(metrics) == cleaned.recount.overview(*effective(metadata)), asked


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("interval", INTERVALS)
def test_buckets_are_of_the_ranges_between_their_starts(cleaned: Cleaned, zone: str, interval: str) -> None:
    """Those the zone's clock cuts while all of their data is there; else some of them as one."""
    for span in SPANS:
        request = query_pb2.GetTimeseriesRequest(
            site=cleaned.site.slug,
            range=time_range(*span),
            interval=query_pb2.Interval.Value(interval),
            time_zone=zone,
        )
        told = cleaned.site.query.GetTimeseries(request, metadata=cleaned.site.as_admin)
        cuts = asked_cuts(zone, interval, span)
        check_metadata(cleaned, told.metadata, cuts)
        start, end = effective(told.metadata)
        found = [(bucket.start_time.ToMicroseconds(), metrics_of(bucket.metrics)) for bucket in told.buckets]
        if start == end:
            assert found == []
            continue
        starts = [at for at, _ in found]
        assert starts[0] == start
        assert found == cleaned.recount.buckets([*starts, end]), span
        if told.metadata.exact:
            assert starts == cuts[:-1]


def test_a_dashboard_is_of_one_range_altogether(cleaned: Cleaned) -> None:
    """Overview, buckets and every dimension's keys; exact when all of them are."""
    tops = [query_pb2.TopSpec(dimension=query_pb2.Dimension.Value(f"DIMENSION_{name.upper()}")) for name in DIMENSIONS]
    for span in SPANS:
        request = query_pb2.GetDashboardRequest(
            site=cleaned.site.slug,
            range=time_range(*span),
            interval=query_pb2.INTERVAL_DAY,
            time_zone="Asia/Kolkata",
            tops=tops,
        )
        told = cleaned.site.query.GetDashboard(request, metadata=cleaned.site.as_admin).dashboard
        check_metadata(cleaned, told.metadata, asked_cuts("Asia/Kolkata", "INTERVAL_DAY", span))
        start, end = effective(told.metadata)
        assert metrics_of(told.metrics) == cleaned.recount.overview(start, end)
        found = [(bucket.start_time.ToMicroseconds(), metrics_of(bucket.metrics)) for bucket in told.buckets]
        assert found == (cleaned.recount.buckets([*(at for at, _ in found), end]) if start < end else [])
        for dimension, top in zip(DIMENSIONS, told.tops, strict=True):
            rows = [(row.key, metrics_of(row.metrics)) for row in top.rows]
            assert rows == cleaned.recount.top(dimension, start, end)[:10], (dimension, span)
            asked = cleaned.site.top(dimension, *span)
            assert asked == cleaned.recount.top(dimension, start, end), (dimension, span)


def test_a_breakdown_leaves_out_what_has_no_raw_events(cleaned: Cleaned) -> None:
    """Only they hold properties."""
    for start, end in SPANS:
        request = query_pb2.GetPropertyBreakdownRequest(
            site=cleaned.site.slug, range=time_range(start, end), event_name="pageview", property_key="plan", limit=1000
        )
        told = cleaned.site.query.GetPropertyBreakdown(request, metadata=cleaned.site.as_admin)
        first, last = effective(told.metadata)
        assert instant_of(first) == min(max(instant_of(start), cleaned.floors.raw), instant_of(end))
        assert (last, told.metadata.exact) == (end, first == start)
        rows = [(row.value.string_value, row.events, row.visitors) for row in told.rows]
        assert rows == cleaned.recount.breakdown("pageview", "plan", first, last)
