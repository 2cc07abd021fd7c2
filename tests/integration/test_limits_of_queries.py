"""What a query may ask, and what one that makes no sense is told."""

import time
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from footfall.query.v1 import query_pb2

from tests.oracle.raw_events import DAY, HOUR, MINUTE
from tests.support.footfall_site import FootfallSite, time_range
from tests.support.refusals import batch, event, invalid, queries, refusal_of

if TYPE_CHECKING:
    from tests.support.suite import Suite

LISTS = {"ListEvents": "events", "ListSessions": "sessions", "ListVisitors": "visitors"}
LIFE = time_range(0, 4_000_000_000_000_000)


@pytest.fixture(scope="module")
def site(suite: "Suite") -> FootfallSite:
    """A site that nothing is sent to."""
    return FootfallSite(suite, "limits")


@pytest.fixture
def fresh(suite: "Suite") -> FootfallSite:
    return FootfallSite(suite, "limits-fresh")


@pytest.mark.parametrize(("start", "end"), [pytest.param(DAY, DAY, id="empty"), pytest.param(DAY, 0, id="inverted")])
def test_a_range_without_length_is_refused_by_every_query(site: FootfallSite, start: int, end: int) -> None:
    for call, request in queries(site):
        request.range.CopyFrom(time_range(start, end))
        told = refusal_of(call, request, metadata=site.as_admin)
        assert (told.code, told.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "RANGE_INVALID")
        assert told.fields[0].startswith("range")


def test_a_report_needs_both_ends_of_its_range(site: FootfallSite) -> None:
    for call, request in queries(site):
        for name in ("start_time", "end_time", None):
            request.range.CopyFrom(time_range(0, DAY))
            if name:
                request.range.ClearField(name)
            else:
                request.ClearField("range")
            if name is None and type(request).__name__.startswith("List"):
                call(request, metadata=site.as_admin)
            else:
                told = refusal_of(call, request, metadata=site.as_admin)
                assert told.code is grpc.StatusCode.INVALID_ARGUMENT
                assert told.fields[0].startswith("range")


def test_an_unknown_site_is_not_found_by_any_query(site: FootfallSite) -> None:
    for call, request in queries(site):
        request.site = "nobody-has-this"
        told = refusal_of(call, request, metadata=site.as_admin)
        assert (told.code, told.reason) == (grpc.StatusCode.NOT_FOUND, "SITE_NOT_FOUND")


@pytest.mark.parametrize(
    ("rpc", "field", "value"),
    [
        ("GetTop", "limit", -1),
        ("GetPropertyBreakdown", "limit", -1),
        ("ListEvents", "page_size", -1),
        ("ListSessions", "page_size", -1),
        ("ListVisitors", "page_size", -1),
        ("GetTop", "dimension", 0),
        ("GetTop", "dimension", 99),
        ("GetTop", "order_by", 99),
        ("GetTimeseries", "interval", 0),
        ("GetTimeseries", "interval", 99),
        ("GetTimeseries", "time_zone", "Mars/Olympus_Mons"),
        ("GetTimeseries", "time_zone", "../UTC"),
        ("GetPropertyBreakdown", "event_name", ""),
        ("GetPropertyBreakdown", "property_key", ""),
        ("ListEvents", "page_token", "forged"),
        ("ListSessions", "page_token", "bm9ib2R5LWdhdmUtdGhpcy1vdXQtZXZlcg"),
    ],
)
def test_a_field_that_makes_no_sense_is_named(site: FootfallSite, rpc: str, field: str, value: Any) -> None:
    request_type = f"{rpc}Request"
    [(call, request)] = [pair for pair in queries(site) if type(pair[1]).__name__ == request_type]
    setattr(request, field, value)
    told = refusal_of(call, request, metadata=site.as_admin)
    assert (told.code, told.fields) == (grpc.StatusCode.INVALID_ARGUMENT, (field,))


def test_10000_buckets_are_answered_and_one_more_is_refused(site: FootfallSite) -> None:
    assert len(site.timeseries(0, 10_000 * HOUR, HOUR)) == 10_000
    assert len(site.timeseries(30 * MINUTE, 9_999 * HOUR + MINUTE, HOUR)) == 10_000
    for start, end in ((0, 10_000 * HOUR + 1), (30 * MINUTE, 10_000 * HOUR + MINUTE), (0, 10**16)):
        told = refusal_of(site.timeseries, start, end, HOUR)
        assert (told.code, told.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "TOO_MANY_BUCKETS")


def test_a_page_token_goes_only_with_the_request_that_gave_it(suite: "Suite", fresh: FootfallSite) -> None:
    """Not with another site, range or list, and not with one character changed."""
    other = FootfallSite(suite, "limits-token")
    for target in (fresh, other):
        target.send(batch(*(event(visitor_id=f"v{number}") for number in range(3))))
        target.aggregate()
    for name in LISTS:
        request_of = getattr(query_pb2, f"{name}Request")
        call = getattr(fresh.query, name)
        good = request_of(site=fresh.slug, range=LIFE, page_size=1)
        token = call(good, metadata=fresh.as_admin).next_page_token
        good.page_token = token
        assert call(good, metadata=fresh.as_admin).next_page_token
        wrong = [
            (call, request_of(site=other.slug, range=LIFE, page_token=token)),
            (call, request_of(site=fresh.slug, page_token=token)),
            (call, request_of(site=fresh.slug, range=time_range(1, 2), page_token=token)),
        ]
        for foreign in LISTS.keys() - {name}:
            foreign_request = getattr(query_pb2, f"{foreign}Request")
            wrong.append(
                (getattr(fresh.query, foreign), foreign_request(site=fresh.slug, range=LIFE, page_token=token))
            )
        for position in range(0, len(token) - 1, 7):
            forged = token[:position] + ("A" if token[position] != "A" else "B") + token[position + 1 :]
            wrong.append((call, request_of(site=fresh.slug, range=LIFE, page_token=forged)))
        for ask, request in wrong:
            told = refusal_of(ask, request, metadata=fresh.as_admin)
            assert told == invalid("PAGE_TOKEN_INVALID", "page_token")


def test_a_list_is_cut_to_its_default_and_to_1000_rows(fresh: FootfallSite) -> None:
    """Limit 0 is 10 rows of a top, page_size 0 is 100 of a list; nothing gives more than 1,000."""
    events = [event(path=f"/{number}", visitor_id=f"v{number}") for number in range(1001)]
    for start in range(0, 1001, 500):
        fresh.send(batch(*events[start : start + 500]))
    fresh.aggregate()
    # Of this year: the statement that ranks 1,000 keys reads every day of its range for each of them.
    span = time.time_ns() // 1_000 - 364 * DAY, time.time_ns() // 1_000 + DAY
    assert [len(fresh.top("page", *span, limit=limit)) for limit in (0, 11, 1000, 2**31 - 1)] == [
        10, 11, 1000, 1000,
    ]  # fmt: skip
    for name, rows in LISTS.items():
        for page_size, length in ((0, 100), (1000, 1000), (2**31 - 1, 1000)):
            request = getattr(query_pb2, f"{name}Request")(site=fresh.slug, page_size=page_size)
            page = getattr(fresh.query, name)(request, metadata=fresh.as_admin)
            assert len(getattr(page, rows)) == length
            assert page.has_more


def test_pages_of_every_size_hold_every_event_visitor_and_session_once(fresh: FootfallSite) -> None:
    """Newest first, in one order whatever the size, also of those of one instant, in one batch and in several."""
    events = [event(visitor_id=f"v{number}") for number in range(9)]
    for number, one in enumerate(events):
        one.occurred_at.FromMicroseconds(number // 4 * MINUTE)
    for start in range(0, 9, 2):
        fresh.send(batch(*events[start : start + 2]))
    fresh.aggregate()
    visitors, sessions, listed = fresh.visitors(), fresh.session_rows(), fresh.events()
    assert [one.occurred_at for one in listed] == [row.start for row in sessions]
    assert {one.visitor_id for one in listed} == {f"v{number}" for number in range(9)}
    assert (
        [row.first_seen for row in visitors] == [row.start for row in sessions] == [2 * MINUTE, *[MINUTE] * 4, *[0] * 4]
    )
    assert {row.visitor_id for row in visitors} == {f"v{number}" for number in range(9)}
    for page_size in range(1, 11):
        assert fresh.visitors(page_size=page_size) == visitors
        assert fresh.session_rows(page_size=page_size) == sessions
        assert fresh.events(page_size=page_size) == listed
        assert fresh.visitors((0, MINUTE + 1), page_size) == visitors[1:]
    assert fresh.visitors((0, MINUTE)) == visitors[5:]
