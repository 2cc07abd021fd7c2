"""What CleanupSite must leave where it is."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from footfall.query.v1 import query_pb2

from tests.oracle.raw_events import DAY, HOUR, MINUTE, RawEvent
from tests.oracle.recount import Recount
from tests.support.footfall_site import FootfallSite, time_range
from tests.support.poison import Worker, bad_event, poisoned
from tests.support.site_rows import site_id_of
from tests.support.suite import Suite
from tests.support.traffic import SESSION_TIMEOUT, START, batch_of, made_up
from tests.support.upkeep import FOR_EVER, KINDS, cleanup, compact, keep_all, rows, sizes, state_of

LATER = START + 400 * DAY
RAW_30_DAYS = START + 30 * DAY
"""The `now` whose cut-off, with a retention of 30 days, is START."""

Connection = psycopg.Connection[Any]


def view(number: int, at: int, visitor: str = "somebody", session: str = "") -> RawEvent:
    """A pageview."""
    return RawEvent(
        event_id=f"00000000-0000-7000-9000-{number:012}",
        type="pageview",
        occurred_at=at,
        visitor_id=visitor,
        session_id=session,
        path=f"/{number}",
    )


def counted_site(suite: Suite, events: Sequence[RawEvent], raw: int, hourly: int, daily: int | None) -> FootfallSite:
    """A site with the events aggregated and compacted."""
    site = FootfallSite(suite, "keeps")
    site.send(batch_of(events))
    site.aggregate()
    compact(site)
    keep_all(site, raw, hourly, daily)
    return site


def hours_of(database: Connection, site: FootfallSite, interval: int) -> set[int]:
    """The buckets that have any row, in microseconds."""
    found = database.execute(
        "SELECT DISTINCT (extract(epoch FROM bucket_start) * 1000000)::bigint FROM rollup_shards "
        "WHERE site_id = %s AND interval = %s",
        (site_id_of(database, site), interval),
    )
    return {row[0] for row in found}


def test_pending_events_stay_and_are_aggregated_afterwards(suite: Suite, database: Connection) -> None:
    """However old; what was aggregated goes around them."""
    site, aggregated, pending = FootfallSite(suite, "pending"), made_up(521, visitors=4, events=30), []
    site.send(batch_of(aggregated))
    site.aggregate()
    compact(site)
    pending = [replace(view(n, START + n * HOUR), visitor_id=f"late {n}") for n in range(5)]
    site.send(batch_of(pending))
    keep_all(site, 30, 30, 30)
    assert cleanup(site, LATER, limit=7)["events"] == len(aggregated)
    assert sorted(site.events(), key=lambda event: event.order) == pending
    assert state_of(site).pending_events == len(pending)
    assert site.aggregate() == len(pending)
    compact(site)
    assert cleanup(site, LATER)["events"] == len(pending)
    assert not any(sizes(database, site_id_of(database, site)).values())


def test_failed_events_stay(suite: Suite, worker: Worker) -> None:
    """They have not been aggregated; once they are, they go."""
    site, good, bad = FootfallSite(suite, "failed"), made_up(522, visitors=4, events=30), bad_event("path")
    site.send(batch_of([*good[:15], bad, *good[15:]]))
    with poisoned(worker, "sessions", "page"):
        worker.fail(site)
    compact(site)
    keep_all(site, 30, 30, 30)
    assert cleanup(site, LATER)["events"] == len(good)
    assert site.events() == [bad]
    assert state_of(site).failed_events == 1


def test_hours_with_deltas_stay_until_they_are_compacted(suite: Suite, database: Connection) -> None:
    """Row and deltas both: without its deltas a row would be less than its hour, and its day less than its hours."""
    site = counted_site(suite, [view(1, START), view(2, START + HOUR)], 30, 30, None)
    site.send(batch_of([view(3, START + 10 * MINUTE)]))
    site.aggregate()
    # An hour row stays in each dimension that has deltas in its hour.
    of_hour = (
        "SELECT dimension, key, delta_no FROM rollup_shards r WHERE site_id = %s AND interval = 1 AND EXISTS (SELECT "
        "FROM rollup_shards d WHERE d.site_id = r.site_id AND d.delta_no > 0 AND d.dimension = r.dimension "
        "AND d.bucket_start = r.bucket_start) ORDER BY 1, 2, 3"
    )
    before = database.execute(of_hour, (site_id_of(database, site),)).fetchall()
    assert {delta_no > 0 for _, _, delta_no in before} == {False, True}
    cleanup(site, LATER, limit=3)
    assert hours_of(database, site, 1) == {START}
    assert database.execute(of_hour, (site_id_of(database, site),)).fetchall() == before
    compact(site)
    cleanup(site, LATER)
    assert hours_of(database, site, 1) == set()
    assert site.overview(START, START + DAY).events == 3


@pytest.mark.parametrize("late", [0, 1, 59 * MINUTE, HOUR - 1])
def test_a_bucket_goes_whole_or_not_at_all(suite: Suite, database: Connection, late: int) -> None:
    """The cut-off is the last whole hour, for day rows the last whole day, whatever the minute of `now`; the event a
    microsecond before it goes, the one on it stays."""
    events = [view(n, START + at, f"v{n}") for n, at in enumerate((-DAY, -HOUR, -1, 0, 1, HOUR - 1, DAY - 1, DAY))]
    site = counted_site(suite, events, 30, 30, 30)
    cleanup(site, RAW_30_DAYS + late, limit=3)
    assert sorted(event.occurred_at - START for event in site.events()) == [0, 1, HOUR - 1, DAY - 1, DAY]
    assert hours_of(database, site, 1) == {START, START + 23 * HOUR, START + DAY}
    assert hours_of(database, site, 2) == {START, START + DAY}
    state = state_of(site)
    for floor in (state.raw_from, state.hours_from, state.days_from):
        assert floor.ToMicroseconds() == START


def test_a_session_stays_while_an_event_could_still_join_it(suite: Suite) -> None:
    """One that ended within the timeout of the cut-off stays, one that ended a microsecond earlier goes; one that
    began long ago and goes on stays as well, and so do their visitors."""
    edge = START - SESSION_TIMEOUT
    long = [view(100 + n, START - 5 * HOUR + n * SESSION_TIMEOUT, "long") for n in range(12)]
    events = [view(1, edge - 1, "gone"), view(2, edge, "stays"), view(3, START - 1, "too"), *long]
    site = counted_site(suite, events, 30, FOR_EVER, 30)
    cleanup(site, RAW_30_DAYS, limit=2)
    assert {row.visitor_id for row in site.session_rows()} == {"stays", "too", "long"}
    # It still grows.
    site.send(batch_of([view(4, START, "stays"), view(5, START + SESSION_TIMEOUT - 1, "too")]))
    site.aggregate()
    recount = Recount([*events, view(4, START, "stays"), view(5, START + SESSION_TIMEOUT - 1, "too")], SESSION_TIMEOUT)
    span = START - DAY, START + DAY
    assert site.overview(*span) == recount.overview(*span)


@pytest.mark.parametrize(
    ("raw", "hourly", "daily", "stays"),
    [(30, 30, 30, False), (31, 30, 30, True), (30, 31, 30, True), (30, 30, 31, True), (30, 30, None, True)],
)
def test_visitors_go_when_no_retention_knows_them_any_more(
    suite: Suite, database: Connection, raw: int, hourly: int, daily: int | None, stays: bool
) -> None:
    """Seen within any one of the three they stay, and while day rows are kept for ever they always do: bitmaps of
    rollups hold their numbers."""
    site = counted_site(suite, [view(1, START - 2 * HOUR), view(2, START + DAY, "another")], raw, hourly, daily)
    cleanup(site, RAW_30_DAYS)
    found = database.execute(
        "SELECT visitor_id FROM visitors WHERE site_id = %s ORDER BY 1", (site_id_of(database, site),)
    ).fetchall()
    assert [row[0] for row in found] == (["another", "somebody"] if stays else ["another"])
    if daily is None:
        cleanup(site, START + 36_000 * DAY)
        assert sizes(database, site_id_of(database, site))["visitors"] == 2


def test_a_range_of_which_something_has_gone_says_so(suite: Suite) -> None:
    """It is widened to whole hours or days that remain, or begins where day rows do; never less than it says."""
    events = [view(n, START + n * 20 * MINUTE, f"v{n % 7}") for n in range(5 * 72)]
    site = counted_site(suite, events, 30, 31, 32)
    recount = Recount(events, SESSION_TIMEOUT)
    now = START + 34 * DAY
    cleanup(site, now, limit=50)
    raw, hours, days = now - 30 * DAY, now - 31 * DAY, now - 32 * DAY
    for asked, answered in (
        ((raw + 1, raw + HOUR + 7), (raw + 1, raw + HOUR + 7)),
        ((raw - HOUR + 1, raw + 7), (raw - HOUR, raw + 7)),
        ((hours + HOUR + 1, hours + HOUR + 2), (hours + HOUR, hours + 2 * HOUR)),
        ((hours - 1, hours + 1), (hours - DAY, hours + HOUR)),
        ((days - DAY, days + 5 * HOUR), (days, days + DAY)),
    ):
        request = query_pb2.GetOverviewRequest(site=site.slug, range=time_range(*asked))
        answer = site.query.GetOverview(request, metadata=site.as_admin)
        assert answer.metadata.effective_range == time_range(*answered), (asked, answered)
        assert answer.metadata.exact == (asked == answered)
        assert site.overview(*answered) == recount.overview(*answered)
    gone = query_pb2.GetOverviewRequest(site=site.slug, range=time_range(days - 2 * DAY, days - DAY))
    answer = site.query.GetOverview(gone, metadata=site.as_admin)
    assert not answer.metadata.exact
    assert answer.metadata.effective_range.start_time == answer.metadata.effective_range.end_time
    assert answer.metrics == query_pb2.Metrics(average_session_duration=answer.metrics.average_session_duration)


def test_what_is_not_expired_stays_row_for_row(suite: Suite, database: Connection) -> None:
    """With a retention of centuries nothing changes, and no floor is set."""
    site = counted_site(suite, made_up(524, visitors=4, events=40), FOR_EVER, FOR_EVER, FOR_EVER)
    site_id = site_id_of(database, site)
    before = rows(database, site_id)
    assert cleanup(site, LATER) == dict.fromkeys(KINDS, 0)
    assert rows(database, site_id) == before
    assert not state_of(site).HasField("raw_from")
