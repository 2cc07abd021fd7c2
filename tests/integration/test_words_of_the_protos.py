"""What the protos say of odd values and of ties is what the services do."""

from typing import Any

from footfall.query.v1 import query_pb2
from footfall.type.v1 import event_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from tests.oracle.raw_events import HOUR, MINUTE, SECOND, Scalar, json_text, stored_id
from tests.support.erasing import TEN
from tests.support.footfall_site import FootfallSite, time_range, walk
from tests.support.refusals import batch, event
from tests.support.suite import Suite

WHOLE = (TEN, TEN + HOUR)


def at(micros: int) -> Timestamp:
    found = Timestamp()
    found.FromMicroseconds(micros)
    return found


def test_equally_frequent_values_of_a_property_go_by_their_json_text(suite: Suite) -> None:
    """Numbers are written out without an exponent and compared by their digits from the left: 10 is before 9."""
    site = FootfallSite(suite, "words")
    values: list[Scalar] = [1e20, 9, 10, 11, 0.5, 1e-7, -1, -10, False, None, True, "10", "a"]
    site.send(batch(*(event(occurred_at=at(TEN + n), properties={"x": value}) for n, value in enumerate(values))))
    site.aggregate()
    rows = site.breakdown("pageview", "x", *WHOLE)
    in_order: list[Scalar] = ["10", "a", -1, -10, 1e-7, 0.5, 10, 1e20, 11, 9, False, None, True]
    # As text, because False is 0 and True is 1 to Python.
    assert [json_text(value) for value, _, _ in rows] == [json_text(value) for value in in_order]


def test_an_integer_beyond_2_to_the_53_is_the_double_next_to_it_and_a_33rd_property_is_dropped(suite: Suite) -> None:
    """A Struct has no other numbers. Keys are taken in the order of their bytes."""
    site = FootfallSite(suite, "words")
    many = {f"{number:02}": number for number in range(33)}
    large = {"kept": 2**53 - 1, "moved": 2**53 + 1, "text": str(2**53 + 1)}
    answer = site.send(batch(event(occurred_at=at(TEN), properties=many), event(occurred_at=at(TEN), properties=large)))
    assert (answer.accepted, answer.rejected) == (2, 0)
    listed = {len(one.properties): dict(one.properties) for one in site.events(WHOLE)}
    assert listed[32] == {key: number for key, number in many.items() if key != "32"}
    assert listed[3] == {"kept": 2**53 - 1, "moved": 2**53, "text": str(2**53 + 1)}


def test_a_nul_character_in_what_is_not_kept_of_an_event_does_not_reject_it(suite: Suite) -> None:
    """Behind the cut of a text, or in a property that is dropped."""
    site = FootfallSite(suite, "words")
    dropped = {**{f"{number:02}": number for number in range(32)}, "32": "\0", "33\0": 1}
    kept, gone = event(path="a\0"), event(path="a" * 2_000 + "\0", properties=dropped)
    answer = site.send(batch(kept, gone))
    assert [(error.index, error.reason) for error in answer.errors] == [(0, "TEXT_HAS_NUL")]
    assert answer.accepted == 1


def test_touches_hold_the_source_and_sessions_do_not(suite: Suite) -> None:
    site = FootfallSite(suite, "words")
    context = event_pb2.Context(source="web", device="mobile")
    site.send(batch(event(occurred_at=at(TEN), context=context)))
    site.aggregate()
    [visitor] = site.query.ListVisitors(query_pb2.ListVisitorsRequest(site=site.slug), metadata=site.as_admin).visitors
    [session] = site.query.ListSessions(query_pb2.ListSessionsRequest(site=site.slug), metadata=site.as_admin).sessions
    assert visitor.first_touch.context == visitor.last_touch.context == context
    assert session.context == event_pb2.Context(device="mobile")


def test_an_identify_without_a_user_unlinks_and_its_properties_replace_the_traits(suite: Suite) -> None:
    """No trait of an earlier one is kept."""
    site = FootfallSite(suite, "words")
    identify = event_pb2.EVENT_TYPE_IDENTIFY
    said: list[dict[str, Any]] = [
        {"user_id": "u", "properties": {"plan": "pro"}},
        {"properties": {"seats": 2}},
        {"user_id": "w"},
    ]
    told = []
    for minute, fields in enumerate(said):
        site.send(batch(event(type=identify, occurred_at=at(TEN + minute * MINUTE), **fields)))
        site.aggregate()
        [visitor] = site.visitors()
        told.append((visitor.user_id, visitor.traits))
    assert told == [("u", {"plan": "pro"}), ("", {"seats": 2}), ("w", {})]


def test_times_are_cut_to_the_microsecond_and_bounds_rounded_up_to_it(suite: Suite) -> None:
    """The same stored times lie in the range; the range that was answered shows the bound as it was rounded."""
    site = FootfallSite(suite, "words")
    site.send(batch(event(occurred_at=Timestamp(seconds=TEN // SECOND, nanos=1_999))))
    site.aggregate()
    [listed] = site.events()
    assert listed.occurred_at == TEN + 1
    for nanos, bound, events in ((1_000, 1, 1), (1_001, 2, 0), (1_999, 2, 0), (2_000, 2, 0)):
        request = query_pb2.GetOverviewRequest(site=site.slug, range=time_range(TEN, TEN + HOUR))
        request.range.start_time.nanos = nanos
        answer = site.query.GetOverview(request, metadata=site.as_admin)
        assert answer.metrics.events == events
        assert answer.metadata.exact
        assert answer.metadata.effective_range.start_time == at(TEN + bound)


def test_events_of_one_instant_go_by_the_stored_form_of_their_ids(suite: Suite) -> None:
    """A UUID by its bytes, any other text by its hash: neither by the text nor by the order of arrival."""
    site = FootfallSite(suite, "words")
    ids = ("018df2f0-7c11-7abc-8def-0123456789ab", "028DF2F0-7C11-7ABC-8DEF-0123456789AB", "a", "b", "B", "order 7")
    site.send(batch(*(event(event_id=text, path=f"/{text}", occurred_at=at(TEN)) for text in ids)))
    site.aggregate()
    ordered = sorted(ids, key=lambda text: stored_id(text).bytes)
    assert ordered != sorted(ids)
    [session] = site.session_rows()
    assert (session.entry_page, session.exit_page) == (f"/{ordered[0]}", f"/{ordered[-1]}")


def test_pages_of_events_hold_every_row_once_while_events_of_the_same_instant_arrive(suite: Suite) -> None:
    """The order of what is there stays, whoever else commits: two ingest processes number batches on their own."""
    site = FootfallSite(suite, "words")
    sent = [batch(*(event(event_id=f"{call}-{n}", occurred_at=at(TEN)) for n in range(3))) for call in range(8)]
    for earlier in sent[:4]:
        site.send(earlier)
    there = {one.event_id for one in site.events()}
    request, later = query_pb2.ListEventsRequest(site=site.slug, page_size=2), iter(sent[4:])
    listed: list[str] = []
    for page in walk(request, lambda page: site.query.ListEvents(page, metadata=site.as_admin)):
        listed += [one.event_id for one in page.events]
        if (more := next(later, None)) is not None:
            site.send(more)
    assert len(listed) == len(set(listed))
    assert there <= set(listed)
    whole = [one.event_id for one in site.events()]
    assert [one for one in whole if one in listed] == listed
