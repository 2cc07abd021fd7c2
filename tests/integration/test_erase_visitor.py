"""EraseVisitor: nothing names the visitor any more, and no count changes."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import grpc
import psycopg
import pytest
from footfall.admin.v1 import admin_pb2
from footfall.query.v1 import query_pb2

from admin_svc.counting import compact
from admin_svc.counting.aggregate import Aggregator
from admin_svc.counting.visitor_numbers import VisitorNumbers
from common.db import Database
from tests.oracle.recount import DAY, HOUR, RawEvent, Recount
from tests.support.commands import footfall
from tests.support.footfall_site import FootfallSite
from tests.support.refusals import batch, event, invalid, refusal_of
from tests.support.site_rows import opened, rows_of, site_id_of, tables_with
from tests.support.suite import Suite
from tests.support.traffic import SESSION_TIMEOUT, WHOLE, batch_of, made_up

# What of the recount an erasure must leave as it is.
_LISTS = ("sessions", "order of sessions", "events", "order of events", "visitors", "order of visitors")


@pytest.fixture(scope="module")
def connection(suite: Suite) -> Iterator[psycopg.Connection[Any]]:
    with opened(suite) as connection:
        yield connection


def named(seed: int, *, visitors: int, events: int) -> list[RawEvent]:
    """Made-up events whose visitors and users have names that nothing else holds, not even as a part."""
    mark = uuid4().hex[:8]
    return [
        replace(
            event,
            visitor_id=f"<{mark} {event.visitor_id}>",
            user_id=event.user_id and f"<{mark} {event.user_id}>",
        )
        for event in made_up(seed, visitors=visitors, events=events)
    ]


def erase(site: FootfallSite, limit: int = 0, token: str = "", **subject: str) -> admin_pb2.EraseVisitorResponse:
    request = admin_pb2.EraseVisitorRequest(site=site.slug, limit=limit, page_token=token, **subject)
    page: admin_pb2.EraseVisitorResponse = site.operator.EraseVisitor(request, metadata=site.as_admin)
    assert page.has_more == (page.next_page_token != "")
    return page


def erase_all(site: FootfallSite, limit: int = 0, **subject: str) -> list[admin_pb2.EraseVisitorResponse]:
    """Every page of an erasure."""
    pages = [erase(site, limit, **subject)]
    while pages[-1].has_more:
        pages.append(erase(site, limit, pages[-1].next_page_token, **subject))
        assert len(pages) < 2_000, "it does not come to an end"
    return pages


def removed(pages: list[admin_pb2.EraseVisitorResponse]) -> tuple[int, int, int]:
    """Events, sessions and visitors."""
    return (
        sum(page.events for page in pages),
        sum(page.sessions for page in pages),
        sum(page.visitors for page in pages),
    )


def assert_counts(site: FootfallSite, events: list[RawEvent]) -> None:
    """Every count over whole hours and days is that of all the events, erased or not."""
    counted = Recount(events, SESSION_TIMEOUT)
    for query, expected, answered in site.compare(counted, *WHOLE):
        if query not in _LISTS:
            assert answered == expected, query


def assert_nothing_names(
    connection: psycopg.Connection[Any], site: FootfallSite, gone: set[str], kept: list[RawEvent]
) -> None:
    """No text of any table, no list; what is kept of others is all there."""
    for name in gone:
        assert tables_with(connection, name) == []
    left = Recount(kept, SESSION_TIMEOUT)
    for query, expected, answered in site.compare(left, *WHOLE):
        if query in _LISTS:
            assert answered == expected, query
    request = query_pb2.ListVisitorsRequest(site=site.slug)
    listed = site.query.ListVisitors(request, metadata=site.as_admin).visitors
    assert {visitor.visitor_id for visitor in listed} == {event.visitor_id for event in kept}


def overview(site: FootfallSite, start: int, end: int) -> query_pb2.GetOverviewResponse:
    request = query_pb2.GetOverviewRequest(site=site.slug)
    request.range.start_time.FromMicroseconds(start)
    request.range.end_time.FromMicroseconds(end)
    answer: query_pb2.GetOverviewResponse = site.query.GetOverview(request, metadata=site.as_admin)
    return answer


def told(metadata: query_pb2.ReportMetadata) -> tuple[int, int, bool]:
    """The range that was counted, and whether it is exactly the one asked for."""
    counted = metadata.effective_range
    return counted.start_time.ToMicroseconds(), counted.end_time.ToMicroseconds(), metadata.exact


@pytest.mark.parametrize("limit", [1, 7, 0])
def test_nothing_names_the_visitor_and_no_count_changes(
    suite: Suite, connection: psycopg.Connection[Any], limit: int
) -> None:
    """Whatever the size of a page; and nothing of another site changes."""
    site, other = FootfallSite(suite, "erase", rollup_shard_count=2), FootfallSite(suite, "erase")
    events = named(1, visitors=4, events=160)
    for one in (site, other):
        one.send(batch_of(events if one is site else made_up(1, visitors=4, events=160)))
        one.aggregate()
    site_id, other_id = site_id_of(connection, site), site_id_of(connection, other)
    for _ in range(8):
        compact.compact(connection, site_id, datetime.now(UTC), 40)
    others = rows_of(connection, other_id)
    rollups = rows_of(connection, site_id)["rollup_shards"]

    gone = events[0].visitor_id
    own, kept = [e for e in events if e.visitor_id == gone], [e for e in events if e.visitor_id != gone]
    pages = erase_all(site, limit, visitor_id=gone)
    assert removed(pages) == (len(own), len(Recount(own, SESSION_TIMEOUT).all_sessions), 1)
    assert all(page.events + page.sessions + page.visitors <= (limit or 5_000) for page in pages)
    assert_nothing_names(connection, site, {gone, *(e.user_id for e in own if e.user_id)}, kept)
    assert rows_of(connection, site_id)["rollup_shards"] == rollups
    assert_counts(site, events)
    assert rows_of(connection, other_id) == others
    assert erase_all(site, visitor_id=gone) == [admin_pb2.EraseVisitorResponse()]


def test_a_user_leaves_with_every_visitor_pending_and_failed_events_too(
    suite: Suite, connection: psycopg.Connection[Any]
) -> None:
    """Visitors that only pending events know of are found; what is pending is counted before it goes."""
    site = FootfallSite(suite, "erase")
    user = f"<user {uuid4().hex[:8]}>"
    events = named(2, visitors=6, events=200)
    names = sorted({event.visitor_id for event in events})
    linked = set(names[:3])
    events = [
        replace(event, user_id=(user if event.visitor_id in linked else "<someone else>") if event.user_id else "")
        for event in events
    ]
    # One visitor is not seen in what is counted before.
    early = [event for event in events[:120] if event.visitor_id != names[0]]
    late = [event for event in events if event not in early]
    site.send(batch_of(early))
    site.aggregate()
    site.send(batch_of(late[:-1]))
    site.aggregate()
    # An event that has failed.
    [failed] = [replace(late[-1], visitor_id=names[0], event_id=str(uuid4()))]
    site.send(batch_of([failed]))
    site_id = site_id_of(connection, site)
    connection.execute(
        "INSERT INTO failed_events (site_id, batch_id, ord, partition, attempts, received_at, failed_at, error) "
        "SELECT site_id, batch_id, first_ord, partition, 3, now(), now(), %s FROM pending_batches WHERE site_id = %s",
        (f"of {names[0]}", site_id),
    )
    connection.execute("DELETE FROM pending_batches WHERE site_id = %s", (site_id,))
    pending = replace(late[-1], visitor_id=f"{names[0]} elsewhere", type="identify", name="", user_id=user)
    site.send(batch_of([pending]))

    own = {event.visitor_id for event in [*early, *late[:-1]] if event.user_id == user} | {pending.visitor_id}
    counted = [*early, *late[:-1], pending]
    kept = [event for event in counted if event.visitor_id not in own]
    pages = erase_all(site, 20, user_id=user)
    assert removed(pages)[0] == len(counted) - len(kept) + 1
    assert removed(pages)[2] == len(own)
    assert_nothing_names(connection, site, {user, *own}, kept)
    assert rows_of(connection, site_id)["failed_events"] == []
    assert_counts(site, counted)


def test_who_waits_for_an_attempt_or_was_only_sent_is_erased(suite: Suite, connection: psycopg.Connection[Any]) -> None:
    """A single event that backs off is pending and not due: it goes from the queue."""
    site = FootfallSite(suite, "erase")
    site_id = site_id_of(connection, site)
    for visitor in ("<waits>", "<stays>"):
        site.send(batch(event(visitor_id=visitor, path="/")))
    connection.execute("UPDATE pending_batches SET not_before = '2100-01-01' WHERE site_id = %s", (site_id,))
    assert erase_all(site, visitor_id="<waits>") == [admin_pb2.EraseVisitorResponse(events=1)]
    assert [one.visitor_id for one in site.events()] == ["<stays>"]
    assert len(rows_of(connection, site_id)["pending_batches"]) == 1


def test_a_claimed_page_of_which_no_event_is_left_is_done(suite: Suite, connection: psycopg.Connection[Any]) -> None:
    """A pending batch may have lost any of its events."""
    site = FootfallSite(suite, "erase")
    site_id = site_id_of(connection, site)
    for visitor in ("a", "b"):
        site.send(batch(*(event(visitor_id=visitor) for _ in range(3))))
    connection.execute(
        "DELETE FROM events WHERE site_id = %s AND (visitor_id = 'a' OR ord = 1)",
        (site_id,),
    )
    site.aggregate(1)
    assert rows_of(connection, site_id)["pending_batches"] == []
    assert site.overview(*_everything()).events == 2


def test_nobody_known_is_no_error_and_a_senseless_request_is(suite: Suite) -> None:
    site = FootfallSite(suite, "erase")
    nothing = admin_pb2.EraseVisitorResponse()
    assert erase(site, visitor_id="nobody") == erase(site, user_id="nobody") == nothing
    assert refusal_of(erase, site) == invalid("FIELD_REQUIRED", "visitor_id")
    assert refusal_of(erase, site, user_id="") == invalid("FIELD_REQUIRED", "user_id")
    assert refusal_of(erase, site, visitor_id="a\0") == invalid("TEXT_HAS_NUL", "visitor_id")
    assert refusal_of(erase, site, -1, visitor_id="a") == invalid("VALUE_OUT_OF_RANGE", "limit")


def test_a_token_goes_only_with_its_own_request(suite: Suite) -> None:
    site, other = FootfallSite(suite, "erase"), FootfallSite(suite, "erase")
    site.send(batch(event(visitor_id="a"), event(visitor_id="a")))
    token = erase(site, 1, visitor_id="a").next_page_token
    assert token
    refused = invalid("PAGE_TOKEN_INVALID", "page_token")
    assert refusal_of(erase, site, 1, token, visitor_id="b") == refused
    assert refusal_of(erase, site, 1, token, user_id="a") == refused
    assert refusal_of(erase, other, 1, token, visitor_id="a") == refused
    assert refusal_of(erase, site, 1, token + "x", visitor_id="a") == refused
    assert erase(site, 1, token, visitor_id="a").events == 1


@pytest.mark.parametrize("pages", [1, 3, 10])
def test_an_interrupted_erasure_is_started_again(suite: Suite, connection: psycopg.Connection[Any], pages: int) -> None:
    """Without its token; a page whose answer was lost may also be asked for twice."""
    site = FootfallSite(suite, "erase")
    events = named(3, visitors=2, events=60)
    site.send(batch_of(events))
    gone = events[0].visitor_id
    token = ""
    for _ in range(pages):
        last, token = token, erase(site, 2, token, visitor_id=gone).next_page_token
    erase(site, 2, last, visitor_id=gone)
    erase_all(site, 3, visitor_id=gone)
    assert_nothing_names(connection, site, {gone}, [e for e in events if e.visitor_id != gone])
    assert_counts(site, events)


def test_who_comes_back_is_a_new_visitor(suite: Suite) -> None:
    site = FootfallSite(suite, "erase")
    site.send(batch(event(visitor_id="back"), event(visitor_id="other")))
    site.aggregate()
    erase_all(site, visitor_id="back")
    assert site.overview(*_everything()).visitors == 2
    site.send(batch(event(visitor_id="back")))
    site.aggregate()
    after = site.overview(*_everything())
    assert (after.visitors, after.new_visitors, after.sessions) == (3, 3, 3)
    assert sorted(row.visitor_id for row in site.session_rows()) == ["back", "other"]


_TEN = (1_709_078_400 + 10 * 3600) * 1_000_000
_MINUTE = 60_000_000


@pytest.fixture
def morning(suite: Suite) -> FootfallSite:
    """Two visitors from 10:05 to 12:55, every ten minutes; one is erased. Between 11 and 12 only the other came."""
    site = FootfallSite(suite, "erase")
    for visitor, hours in (("gone", (0, 2)), ("stays", (0, 1, 2))):
        sent = []
        for hour in hours:
            for minute in range(5, 60, 10):
                one = event(visitor_id=visitor, properties={"plan": visitor})
                one.occurred_at.FromMicroseconds(_TEN + hour * HOUR + minute * _MINUTE)
                sent.append(one)
        site.send(batch(*sent))
    site.aggregate()
    erase_all(site, visitor_id="gone")
    return site


def test_a_bound_inside_an_erased_hour_is_widened_and_says_so(morning: FootfallSite) -> None:
    """Also where the hour holds no event outside the range; a bound in another hour stays where it is."""
    for start, end, first, last, exact in (
        (_TEN, _TEN + 3 * HOUR, _TEN, _TEN + 3 * HOUR, True),
        (_TEN + 1, _TEN + 3 * HOUR, _TEN, _TEN + 3 * HOUR, False),
        (_TEN + 30 * _MINUTE, _TEN + 45 * _MINUTE, _TEN, _TEN + HOUR, False),
        (_TEN + 30 * _MINUTE, _TEN + 90 * _MINUTE, _TEN, _TEN + 90 * _MINUTE, False),
        (_TEN + 75 * _MINUTE, _TEN + 90 * _MINUTE, _TEN + 75 * _MINUTE, _TEN + 90 * _MINUTE, True),
        (_TEN + HOUR, _TEN + 3 * HOUR - _MINUTE, _TEN + HOUR, _TEN + 3 * HOUR, False),
    ):
        answer = overview(morning, start, end)
        assert told(answer.metadata) == (first, last, exact)
        # 12 events in an erased hour, whoever they were of; else those of the one who stays.
        edges = [_TEN + HOUR + minute * _MINUTE for minute in range(5, 60, 10)]
        hours = [hour for hour in (_TEN, _TEN + 2 * HOUR) if first <= hour < last]
        assert answer.metrics.events == 12 * len(hours) + sum(first <= at < last for at in edges)
        assert answer.metrics.visitors == (2 if hours else 1)


def test_buckets_that_begin_inside_erased_hours_move_back(morning: FootfallSite) -> None:
    """Where a zone's hours are not whole hours of UTC."""
    request = query_pb2.GetTimeseriesRequest(
        site=morning.slug, interval=query_pb2.INTERVAL_HOUR, time_zone="Asia/Kathmandu"
    )
    request.range.start_time.FromMicroseconds(_TEN - 15 * _MINUTE)
    request.range.end_time.FromMicroseconds(_TEN + 4 * HOUR - 15 * _MINUTE)
    answer = morning.query.GetTimeseries(request, metadata=morning.as_admin)
    starts = [(bucket.start_time.ToMicroseconds() - _TEN) // _MINUTE for bucket in answer.buckets]
    # Asked for are 9:45, 10:15, 11:15, 12:15 and 13:15; the second and the fourth cut an erased hour.
    assert starts == [-15, 0, 75, 120, 195]
    assert not answer.metadata.exact
    assert sum(bucket.metrics.events for bucket in answer.buckets) == 30


def test_what_only_raw_events_tell_says_that_some_are_gone(
    morning: FootfallSite, connection: psycopg.Connection[Any]
) -> None:
    """The values of properties; and whole hours whose rows have been cleaned up."""
    request = query_pb2.GetPropertyBreakdownRequest(site=morning.slug, event_name="pageview", property_key="plan")
    for start, exact in ((_TEN, False), (_TEN + HOUR, True), (_TEN + 2 * HOUR - 1, True)):
        request.range.start_time.FromMicroseconds(start)
        request.range.end_time.FromMicroseconds(_TEN + (2 * HOUR if exact else HOUR))
        answer = morning.query.GetPropertyBreakdown(request, metadata=morning.as_admin)
        assert answer.metadata.exact is exact
        assert [row.value.string_value for row in answer.rows] in (["stays"], [])

    site_id = site_id_of(connection, morning)
    gone_until = datetime(2024, 2, 28, 12, tzinfo=UTC)
    connection.execute("UPDATE sites SET hours_from = %s WHERE site_id = %s", (gone_until, site_id))
    connection.execute(
        "DELETE FROM rollup_shards WHERE site_id = %s AND interval = 1 AND bucket_start < %s", (site_id, gone_until)
    )
    for start, end, exact, events in (
        (_TEN, _TEN + HOUR, False, 6),
        (_TEN + HOUR, _TEN + 2 * HOUR, True, 6),
        (_TEN + HOUR, _TEN + 3 * HOUR, True, 18),
    ):
        whole = overview(morning, start, end)
        assert (told(whole.metadata), whole.metrics.events) == ((start, end, exact), events)


def test_a_rebuild_counts_what_is_left_and_every_part_of_an_hour_can_be_told_again(
    morning: FootfallSite, connection: psycopg.Connection[Any]
) -> None:
    """An erasure while a rebuild is under way has to wait for it."""
    request = admin_pb2.RebuildSiteRequest(site=morning.slug, limit=10)
    page = morning.operator.RebuildSite(request, metadata=morning.as_admin)
    refused = refusal_of(erase, morning, visitor_id="stays")
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "SITE_BUSY")
    while page.has_more:
        request.page_token = page.next_page_token
        page = morning.operator.RebuildSite(request, metadata=morning.as_admin)
    assert rows_of(connection, site_id_of(connection, morning))["erased_hours"] == []
    answer = overview(morning, _TEN + 1, _TEN + 30 * _MINUTE)
    assert told(answer.metadata) == (_TEN + 1, _TEN + 30 * _MINUTE, True)
    assert (answer.metrics.events, answer.metrics.visitors) == (3, 1)
    assert erase_all(morning, visitor_id="stays")[-1].visitors == 1


def test_erasing_beside_senders_and_workers_changes_no_count(suite: Suite, connection: psycopg.Connection[Any]) -> None:
    """Several visitors are erased in small pages while others are sent, counted and folded."""
    site = FootfallSite(suite, "erase", rollup_shard_count=4)
    events = named(4, visitors=12, events=900)
    gone = sorted({event.visitor_id for event in events})[:4]
    first = [event for event in events if event.visitor_id in gone]
    rest = [event for event in events if event.visitor_id not in gone]
    site.send(batch_of(first))
    site_id = site_id_of(connection, site)
    stopping = threading.Event()
    db = Database(suite.database_url, application="test")
    aggregator = Aggregator(VisitorNumbers(db))

    def work() -> None:
        with opened(suite) as worker:
            while not stopping.is_set():
                aggregator.aggregate(worker, site_id, datetime.now(UTC) + timedelta(seconds=1), 50)
                compact.compact(worker, site_id, datetime.now(UTC), 30)

    def send() -> None:
        for at in range(0, len(rest), 20):
            site.send(batch_of(rest[at : at + 20]))

    threads = [threading.Thread(target=work), threading.Thread(target=work), threading.Thread(target=send)]
    for thread in threads:
        thread.start()
    totals = [removed(erase_all(site, 9, visitor_id=visitor)) for visitor in gone]
    threads[-1].join()
    stopping.set()
    for thread in threads:
        thread.join()
    db.close()
    site.aggregate()
    assert [total[0] for total in totals] == [sum(e.visitor_id == visitor for e in first) for visitor in gone]
    assert_nothing_names(connection, site, set(gone), rest)
    assert_counts(site, events)


def test_a_late_event_behind_the_place_that_was_reached_goes_too(
    suite: Suite, connection: psycopg.Connection[Any]
) -> None:
    """It was counted between two pages; and no report takes it for a visitor of its own."""
    site = FootfallSite(suite, "erase")
    gone = f"<{uuid4().hex[:8]}>"
    page = admin_pb2.EraseVisitorResponse()
    for minutes in (range(1, 25), (0, 0.5)):
        sent = [event(visitor_id=gone) for _ in minutes]
        for one, minute in zip(sent, minutes, strict=True):
            one.occurred_at.FromMicroseconds(_TEN + round(minute * _MINUTE))
        site.send(batch(*sent))
        site.aggregate()
        page = erase(site, 5, page.next_page_token, visitor_id=gone)
        assert (page.events, page.has_more) == (5, True)
    while page.has_more:
        page = erase(site, 5, page.next_page_token, visitor_id=gone)
    assert site.events() == []
    assert tables_with(connection, gone) == []
    assert site.overview(_TEN, _TEN + HOUR).events == 26


def test_a_page_waits_for_the_workers_and_keeps_them_out(suite: Suite, connection: psycopg.Connection[Any]) -> None:
    """What a worker is about to write of a visitor would else come after it is gone."""
    site = FootfallSite(suite, "erase")
    site.send(batch(event(visitor_id="a")))
    with opened(suite) as worker:
        worker.execute("BEGIN")
        worker.execute("SELECT pg_advisory_xact_lock_shared(%s, -1)", (site_id_of(connection, site),))
        erasing = threading.Thread(target=erase_all, args=(site,), kwargs={"visitor_id": "a"})
        erasing.start()
        erasing.join(0.5)
        assert erasing.is_alive()
        worker.execute("COMMIT")
        erasing.join()
    assert site.events() == []


def test_it_ends_although_its_visitor_goes_on(suite: Suite, connection: psycopg.Connection[Any]) -> None:
    """One event more between any two pages, on time or late; what is left then is a visitor of its own."""
    site = FootfallSite(suite, "erase")
    gone = f"<{uuid4().hex[:8]}>"

    def send(minutes: list[float], visitor: str = gone) -> None:
        sent = [event(visitor_id=visitor) for _ in minutes]
        for one, minute in zip(sent, minutes, strict=True):
            one.occurred_at.FromMicroseconds(_TEN + round(minute * _MINUTE))
        site.send(batch(*sent))
        site.aggregate()

    send([minute / 2 for minute in range(100)])
    send([minute / 10 for minute in range(500)], "other")
    pages = [erase(site, 5, visitor_id=gone)]
    while pages[-1].has_more:
        send([50 + len(pages) if len(pages) % 2 else 0.01 * len(pages)])
        pages.append(erase(site, 5, pages[-1].next_page_token, visitor_id=gone))
        assert len(pages) < 200
    site_id = site_id_of(connection, site)
    numbers = [row[0] for row in connection.execute("SELECT visitor_no FROM sessions WHERE site_id = %s", (site_id,))]
    known = [row[0] for row in connection.execute("SELECT visitor_no FROM visitors WHERE site_id = %s", (site_id,))]
    assert set(numbers) == set(known)
    erase_all(site, visitor_id=gone)
    assert site.overview(_TEN - DAY, _TEN + DAY).events == 600 + len(pages) - 1


def test_a_verified_site_stays_verified(suite: Suite, connection: psycopg.Connection[Any]) -> None:
    """Erased hours are left out, and the command says so; a wrong number in another hour is still found."""
    site = FootfallSite(suite, "erase")
    events = made_up(6, visitors=8, events=300)
    site.send(batch_of(events))
    site.aggregate()
    erase_all(site, visitor_id=events[0].visitor_id)
    code, output = footfall(suite, "verify", "--site", site.slug)
    assert code == 0, output
    assert "hours of which visitors were erased" in output
    damage = """
        UPDATE rollup_shards r SET events = events + 1 WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM rollup_shards WHERE site_id = %(site_id)s AND interval = 1 AND dimension = 0
              AND bucket_start NOT IN (SELECT hour FROM erased_hours WHERE site_id = %(site_id)s) LIMIT 1))
    """
    assert connection.execute(damage, {"site_id": site_id_of(connection, site)}).rowcount == 1
    code, output = footfall(suite, "verify", "--site", site.slug)
    assert code == 1
    assert "INTERVAL_HOUR" in output


def _everything() -> tuple[int, int]:
    """From long ago to far ahead, in whole days."""
    return 1_577_836_800_000_000, 2_208_988_800_000_000
