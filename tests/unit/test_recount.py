"""The recount is held to the recorded answers before anything is held to the recount."""

from itertools import permutations

import pytest

from tests.oracle.raw_events import DAY, DIMENSIONS, HOUR, MILLISECOND, MINUTE, RawEvent
from tests.oracle.recorded_cases import (
    BASIC,
    BASIC_BATCHES,
    BASIC_RANGES,
    SESSION_TIMEOUT,
    STREAM,
    STREAM_BATCHES,
    STREAM_RANGES,
    TOP_DIMENSIONS,
    Batch,
    RecordedRange,
    by_count_and_key,
    recount_of,
    rows,
)
from tests.oracle.recount import Recount, boundaries

ALWAYS = (0, 2**60)


def view(visitor: str, at: int, path: str = "", session_id: str = "") -> RawEvent:
    """A pageview whose id tells nothing of its time."""
    return RawEvent(
        event_id=f"{-at}",
        type="pageview",
        visitor_id=visitor,
        occurred_at=at,
        path=path,
        session_id=session_id,
    )


@pytest.mark.parametrize(
    ("batches", "recorded"),
    [
        pytest.param(batches, recorded, id=recorded.label)
        for batches, ranges in ((BASIC_BATCHES, BASIC_RANGES), (STREAM_BATCHES, STREAM_RANGES))
        for recorded in ranges
        if recorded.is_range and not recorded.before_aggregation
    ],
)
def test_the_recount_gives_every_recorded_answer(batches: list[Batch], recorded: RecordedRange) -> None:
    """Overview, both timeseries, all tops and all breakdowns of every recorded range."""
    for query, expected, counted in recorded.compare(recount_of(batches)):
        assert counted == expected, query


def test_the_recount_counts_what_the_recording_counted_one_by_one() -> None:
    """The recorded brute force holds for every range of the stream, the double-counted ones included."""
    recount = recount_of(STREAM_BATCHES)
    for recorded in STREAM_RANGES:
        counted = recount.overview(recorded.start, recorded.end)
        assert recorded.brute_force == {
            "events": counted.events,
            "pageviews": counted.pageviews,
            "sessions": counted.sessions,
            "visitors": counted.new_visitors,
        }, recorded.label


def test_the_recount_gives_every_recorded_top_that_was_cut() -> None:
    """The first rows of the whole list are the recorded ones, up to ties at the cut."""
    for batches, steps in ((BASIC_BATCHES, BASIC), (STREAM_BATCHES, STREAM)):
        recount = recount_of(batches)
        for step in steps:
            if step["op"] in TOP_DIMENSIONS and step["args"].get("limit", 10) > 0:
                span = step["args"]["from"] * MILLISECOND, step["args"]["to"] * MILLISECOND
                found = [
                    (key, metrics.events, metrics.pageviews)
                    for key, metrics in recount.top(TOP_DIMENSIONS[step["op"]], *span)
                ]
                recorded = [(row["key"], row["count"], row["pageviewCount"]) for row in step["result"]]
                assert found == sorted(found, key=by_count_and_key)
                assert set(recorded) <= set(found)
                assert [row[1] for row in recorded] == [row[1] for row in found[: len(recorded)]]


def test_the_recount_finds_the_recorded_sessions_and_users() -> None:
    recount = recount_of(BASIC_BATCHES)
    for step in BASIC:
        if step["op"] == "listSessions":
            span = tuple(step["args"][bound] * MILLISECOND for bound in ("from", "to") if step["args"])
            counted = recount.session_rows(*(span or ALWAYS))
            recorded = rows(step["result"])
            assert len(counted) == len(recorded)
            for mine, theirs in zip(counted, recorded, strict=True):
                assert mine.start == theirs["startedAt"] * MILLISECOND
                assert mine.end - mine.start == theirs["durationMs"] * MILLISECOND
                assert (mine.visitor_id, mine.session_id) == (theirs["visitorId"], theirs["sessionId"])
                assert (mine.entry_page, mine.exit_page) == (theirs["entryPath"], theirs["exitPath"])
                assert (mine.events, mine.pageviews) == (theirs["eventCount"], theirs["pageviewCount"])
                assert mine.bounce == theirs["bounce"]
                assert mine.referrer == theirs.get("referrer", "")
                assert mine.user_id == theirs.get("identifiedUserId", mine.user_id)


def test_a_gap_of_exactly_the_timeout_goes_on_and_a_longer_one_ends_a_session() -> None:
    edge = SESSION_TIMEOUT
    assert len(Recount([view("a", 0), view("a", edge)], SESSION_TIMEOUT).all_sessions) == 1
    assert len(Recount([view("a", 0), view("a", edge + 1)], SESSION_TIMEOUT).all_sessions) == 2


def test_another_session_id_and_none_are_streams_of_their_own() -> None:
    """Their visitor is new once, in the earliest of them."""
    events = [view("a", 2, session_id="s"), view("a", 1), view("a", 3, session_id="t"), view("b", 3)]
    recount = Recount(events, SESSION_TIMEOUT)
    assert [(row.session_id, row.new_visitor) for row in recount.session_rows(0, 3)] == [
        ("s", False),
        ("", True),
    ]
    assert recount.overview(*ALWAYS).sessions == 4
    assert recount.overview(*ALWAYS).new_visitors == 2


def test_a_late_event_between_two_sessions_makes_them_one() -> None:
    events = [view("a", 0, "/in"), view("a", 40 * MINUTE, "/out"), view("a", 20 * MINUTE, "/late")]
    for arrival in permutations(events):
        [session] = Recount(arrival, SESSION_TIMEOUT).all_sessions
        assert (session.entry_page, session.exit_page, session.bounce) == ("/in", "/out", False)


def test_visitors_are_counted_in_every_bucket_they_appear_in_and_new_in_one() -> None:
    series = Recount([view("a", day * DAY) for day in range(3)], SESSION_TIMEOUT).timeseries(0, 3 * DAY, DAY)
    assert [metrics.visitors for _, metrics in series] == [1, 1, 1]
    assert [metrics.new_visitors for _, metrics in series] == [1, 0, 0]


def test_a_page_a_session_entered_by_has_the_whole_session_in_its_row() -> None:
    """Though part of it lies after the range; a session that began before the range has no part in it."""
    events = [view("a", 10, "/in"), view("a", 20, "/x"), view("a", 30, "/out"), view("b", 5, "/in")]
    recount = Recount(events, SESSION_TIMEOUT)
    [(key, metrics)] = recount.top("entry_page", 10, 20)
    assert (key, metrics.events, metrics.sessions, metrics.visitors) == ("/in", 3, 1, 1)
    [(key, metrics)] = recount.top("exit_page", 10, 20)
    assert (key, metrics.events) == ("/out", 3)


def test_an_absent_key_has_no_row_in_any_dimension() -> None:
    recount = Recount([view("a", 0)], SESSION_TIMEOUT)
    assert [dimension for dimension in DIMENSIONS if recount.top(dimension, 0, 1)] == ["event"]


def test_buckets_are_whole_hours_clipped_to_the_range() -> None:
    assert boundaries(5, HOUR, HOUR) == [5, HOUR]
    assert boundaries(HOUR, 2 * HOUR + 1, HOUR) == [HOUR, 2 * HOUR, 2 * HOUR + 1]
