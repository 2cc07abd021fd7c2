"""Reports over hours of which a visitor was erased: whole hours are right, parts of them are not exact and say so."""

from typing import Any

import grpc
import psycopg
import pytest
from footfall.admin.v1 import admin_pb2
from footfall.query.v1 import query_pb2

from tests.oracle.raw_events import DAY, HOUR, MINUTE
from tests.support.commands import footfall
from tests.support.erasing import TEN, erase, erase_all, overview, told
from tests.support.footfall_site import FootfallSite, time_range
from tests.support.refusals import batch, event, refusal_of
from tests.support.retention import clean_up
from tests.support.site_rows import rows_of, site_id_of
from tests.support.suite import Suite
from tests.support.traffic import START, batch_of, made_up
from tests.support.upkeep import compact, instant


@pytest.fixture
def morning(suite: Suite) -> FootfallSite:
    """Two visitors from 10:05 to 12:55, every ten minutes; one is erased. Between 11 and 12 only the other came."""
    site = FootfallSite(suite, "erase")
    for visitor, hours in (("gone", (0, 2)), ("stays", (0, 1, 2))):
        sent = []
        for hour in hours:
            for minute in range(5, 60, 10):
                one = event(visitor_id=visitor, properties={"plan": visitor})
                one.occurred_at.FromMicroseconds(TEN + hour * HOUR + minute * MINUTE)
                sent.append(one)
        site.send(batch(*sent))
    site.aggregate()
    erase_all(site, visitor_id="gone")
    return site


def test_a_bound_inside_an_erased_hour_is_widened_and_says_so(morning: FootfallSite) -> None:
    """Also where the hour holds no event outside the range; a bound in another hour stays where it is."""
    for start, end, first, last, exact in (
        (TEN, TEN + 3 * HOUR, TEN, TEN + 3 * HOUR, True),
        (TEN + 1, TEN + 3 * HOUR, TEN, TEN + 3 * HOUR, False),
        (TEN + 30 * MINUTE, TEN + 45 * MINUTE, TEN, TEN + HOUR, False),
        (TEN + 30 * MINUTE, TEN + 90 * MINUTE, TEN, TEN + 90 * MINUTE, False),
        (TEN + 75 * MINUTE, TEN + 90 * MINUTE, TEN + 75 * MINUTE, TEN + 90 * MINUTE, True),
        (TEN + HOUR, TEN + 3 * HOUR - MINUTE, TEN + HOUR, TEN + 3 * HOUR, False),
    ):
        answer = overview(morning, start, end)
        assert told(answer.metadata) == (first, last, exact)
        # 12 events in an erased hour, whoever they were of; else those of the one who stays.
        edges = [TEN + HOUR + minute * MINUTE for minute in range(5, 60, 10)]
        hours = [hour for hour in (TEN, TEN + 2 * HOUR) if first <= hour < last]
        assert answer.metrics.events == 12 * len(hours) + sum(first <= at < last for at in edges)
        assert answer.metrics.visitors == (2 if hours else 1)


def test_buckets_that_begin_inside_erased_hours_move_back(morning: FootfallSite) -> None:
    """Where a zone's hours are not whole hours of UTC."""
    request = query_pb2.GetTimeseriesRequest(
        site=morning.slug, interval=query_pb2.INTERVAL_HOUR, time_zone="Asia/Kathmandu"
    )
    request.range.start_time.FromMicroseconds(TEN - 15 * MINUTE)
    request.range.end_time.FromMicroseconds(TEN + 4 * HOUR - 15 * MINUTE)
    answer = morning.query.GetTimeseries(request, metadata=morning.as_admin)
    starts = [(bucket.start_time.ToMicroseconds() - TEN) // MINUTE for bucket in answer.buckets]
    # Asked for are 9:45, 10:15, 11:15, 12:15 and 13:15; the second and the fourth cut an erased hour.
    assert starts == [-15, 0, 75, 120, 195]
    assert not answer.metadata.exact
    assert sum(bucket.metrics.events for bucket in answer.buckets) == 30


def test_property_values_say_that_some_are_gone(morning: FootfallSite) -> None:
    """Only raw events tell them, so no range is widened."""
    request = query_pb2.GetPropertyBreakdownRequest(site=morning.slug, event_name="pageview", property_key="plan")
    for start, exact in ((TEN, False), (TEN + HOUR, True), (TEN + 2 * HOUR - 1, True)):
        request.range.start_time.FromMicroseconds(start)
        request.range.end_time.FromMicroseconds(TEN + (2 * HOUR if exact else HOUR))
        answer = morning.query.GetPropertyBreakdown(request, metadata=morning.as_admin)
        assert answer.metadata.exact is exact
        assert [row.value.string_value for row in answer.rows] in (["stays"], [])


def test_where_hour_rows_are_gone_a_bound_moves_to_the_day_of_an_erased_hour(
    morning: FootfallSite, database: psycopg.Connection[Any]
) -> None:
    """The day row holds what the raw events lack. A range without an erased hour stays; so does one whose day has no
    row any more, and says that it is not exact."""
    noon = TEN + 2 * HOUR
    compact(morning)
    clean_up(database, site_id_of(database, morning), None, instant(noon))
    day = (START, START + DAY, False)
    whole_hours = (
        (TEN, TEN + HOUR, day, 30),
        (START, TEN + HOUR, day, 30),
        (TEN + HOUR, TEN + 2 * HOUR, None, 6),
        (TEN + HOUR, TEN + 3 * HOUR, None, 18),
        (START, START + DAY, None, 30),
        (START - DAY, TEN + 3 * HOUR, (START - DAY, START + DAY, False), 30),
        (TEN, START + 3 * DAY, (START, START + 3 * DAY, False), 30),
    )
    for start, end, expected, events in (*whole_hours, (TEN + 1, TEN + 2, day, 30)):
        answer = overview(morning, start, end)
        assert (told(answer.metadata), answer.metrics.events) == (expected or (start, end, True), events)
        assert answer.metrics.visitors == (1 if events == 6 else 2)
    request = query_pb2.GetTimeseriesRequest(site=morning.slug, interval=query_pb2.INTERVAL_HOUR)
    request.range.MergeFrom(time_range(START, START + 2 * DAY))
    series = morning.query.GetTimeseries(request, metadata=morning.as_admin)
    # The range is the one asked for, and yet not every bucket is.
    assert told(series.metadata) == (START, START + 2 * DAY, False)
    assert [bucket.start_time.ToMicroseconds() for bucket in series.buckets] == [
        START + hour * HOUR for hour in (0, *range(24, 48))
    ]
    assert series.buckets[0].metrics.events == 30

    clean_up(database, site_id_of(database, morning), None, instant(noon), instant(START + DAY))
    for start, end, expected, _ in whole_hours:
        if expected:
            answer = overview(morning, start, end)
            assert (told(answer.metadata), answer.metrics.events) == ((start, end, False), 6 if end <= noon else 24)


def test_a_rebuild_aggregates_what_is_left_and_every_part_of_an_hour_can_be_told_again(
    morning: FootfallSite, database: psycopg.Connection[Any]
) -> None:
    """An erasure while a rebuild is under way has to wait for it."""
    request = admin_pb2.RebuildSiteRequest(site=morning.slug, limit=10)
    chunk = morning.operator.RebuildSite(request, metadata=morning.as_admin)
    refused = refusal_of(erase, morning, visitor_id="stays")
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "SITE_BUSY")
    while chunk.has_more:
        request.page_token = chunk.next_page_token
        chunk = morning.operator.RebuildSite(request, metadata=morning.as_admin)
    assert rows_of(database, site_id_of(database, morning))["erased_hours"] == []
    answer = overview(morning, TEN + 1, TEN + 30 * MINUTE)
    assert told(answer.metadata) == (TEN + 1, TEN + 30 * MINUTE, True)
    assert (answer.metrics.events, answer.metrics.visitors) == (3, 1)
    assert erase_all(morning, visitor_id="stays")[-1].visitors == 1


def test_a_verified_site_stays_verified(suite: Suite, database: psycopg.Connection[Any]) -> None:
    """Erased hours are left out, and the command says so; a wrong number in another hour is still found. So are days
    with an erased hour whose hour rows have been cleaned up: there the hours of a timeseries are one bucket."""
    site = FootfallSite(suite, "erase")
    events = made_up(6, visitors=8, events=300)
    site.send(batch_of(events))
    site.aggregate()
    erase_all(site, visitor_id=events[0].visitor_id)
    code, output = footfall(suite, "verify", "--site", site.slug)
    assert code == 0, output
    assert "hours of which visitors were erased" in output
    compact(site)
    clean_up(database, site_id_of(database, site), None, instant(max(one.occurred_at for one in events) // DAY * DAY))
    code, output = footfall(suite, "verify", "--site", site.slug)
    assert code == 0, output
    damage = """
        UPDATE rollup_shards r SET events = events + 1 WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM rollup_shards WHERE site_id = %(site_id)s AND interval = 1 AND dimension = 0
              AND bucket_start NOT IN (SELECT hour FROM erased_hours WHERE site_id = %(site_id)s) LIMIT 1))
    """
    assert database.execute(damage, {"site_id": site_id_of(database, site)}).rowcount == 1
    code, output = footfall(suite, "verify", "--site", site.slug)
    assert code == 1
    assert "INTERVAL_HOUR" in output
