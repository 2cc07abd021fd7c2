"""Events become the same sessions in any order and any batching, and those are the plain runs between gaps."""

from datetime import timedelta
from itertools import groupby
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admin_svc.counting.sessionize import Event, Session, merge, runs, session_of, sessions_of_stream
from common.dimensions import KEYED_EVENT_DIMENSIONS
from tests.unit.drawn_events import TIMEOUT, Drawn, drawn_events, events_of


def plain_sessions(events: list[Event]) -> list[Session]:
    """The runs of the sorted events between gaps, each summed up by itself."""
    runs: list[list[Event]] = []
    for event in sorted(events, key=lambda event: (event.occurred_at, event.event_id)):
        if runs and event.occurred_at - runs[-1][-1].occurred_at <= TIMEOUT:
            runs[-1].append(event)
        else:
            runs.append([event])
    return [_plain_session(run) for run in runs]


def _plain_session(run: list[Event]) -> Session:
    with_path = [event for event in run if event.path is not None]
    entry, exit_ = (with_path[0], with_path[-1]) if with_path else (None, None)
    return Session(
        visitor_no=7,
        session_id="s",
        started_at=run[0].occurred_at,
        first_event_id=run[0].event_id,
        ended_at=run[-1].occurred_at,
        events=len(run),
        pageviews=sum(event.type == 1 for event in run),
        keys=tuple(dimension.key(run[0]) for dimension in KEYED_EVENT_DIMENSIONS),
        entry_at=entry and entry.occurred_at,
        entry_event_id=entry and entry.event_id,
        entry_page=entry and entry.path,
        exit_at=exit_ and exit_.occurred_at,
        exit_event_id=exit_ and exit_.event_id,
        exit_page=exit_ and exit_.path,
        new_visitor=False,
    )


def alone(events: list[Event]) -> list[Session]:
    return [session_of(7, [event]) for event in events]


@given(drawn_events, st.randoms(use_true_random=False))
def test_any_order_gives_the_plain_runs_between_gaps(drawn: list[Drawn], dice: Random) -> None:
    events = events_of(drawn)
    shuffled = dice.sample(events, len(events))
    assert sessions_of_stream(alone(shuffled), TIMEOUT) == plain_sessions(events)


@given(drawn_events)
def test_the_runs_of_sorted_events_are_their_sessions(drawn: list[Drawn]) -> None:
    """So that a page's events of one stream need not be merged one by one."""
    events = events_of(drawn)
    assert [session_of(7, run) for run in runs(_sorted(events), TIMEOUT)] == plain_sessions(events)


@given(drawn_events, st.lists(st.integers(0, 4), min_size=24, max_size=24))
def test_any_batching_gives_the_plain_runs_between_gaps(drawn: list[Drawn], batches: list[int]) -> None:
    """Batch after batch joins the sessions that those before it have left."""
    events = events_of(drawn)
    numbered = sorted(zip(batches, range(len(events)), strict=False))
    sessions: list[Session] = []
    for _, batch in groupby(numbered, key=lambda pair: pair[0]):
        sessions = sessions_of_stream(alone([events[at] for _, at in batch]) + sessions, TIMEOUT)
    assert sessions == plain_sessions(events)


@given(drawn_events, drawn_events, drawn_events)
def test_merging_is_commutative_and_associative(one: list[Drawn], two: list[Drawn], three: list[Drawn]) -> None:
    """Whatever the gaps: whether two sessions merge is decided elsewhere."""
    events = events_of(one + two + three)
    first, second = len(one), len(one) + len(two)
    a, b, c = (_plain_session(_sorted(part)) for part in (events[:first], events[first:second], events[second:]))
    assert merge(a, b) == merge(b, a)
    assert merge(merge(a, b), c) == merge(a, merge(b, c)) == _plain_session(_sorted(events))


def _sorted(events: list[Event]) -> list[Event]:
    return sorted(events, key=lambda event: (event.occurred_at, event.event_id))


@pytest.mark.parametrize(("gap", "sessions"), [(TIMEOUT, 1), (TIMEOUT + timedelta(microseconds=1), 2)])
def test_a_gap_of_exactly_the_timeout_stays_in_one_session(gap: timedelta, sessions: int) -> None:
    first, second = events_of([(0, 0, 1, "/a", None), (0, 0, 1, "/b", None)])
    later = second._replace(occurred_at=first.occurred_at + gap)
    assert len(sessions_of_stream(alone([later, first]), TIMEOUT)) == sessions


def test_an_event_between_two_sessions_makes_them_one() -> None:
    """Its neighbours are each the timeout away from it, and twice that from one another."""
    early, late, between = events_of([(0, 0, 1, "/a", None), (12, 0, 1, "/c", None), (6, 0, 1, "/b", None)])
    apart = sessions_of_stream(alone([early, late]), TIMEOUT)
    assert [session.entry_page for session in apart] == ["/a", "/c"]
    [joined] = sessions_of_stream([*apart, session_of(7, [between])], TIMEOUT)
    assert (joined.entry_page, joined.exit_page, joined.events) == ("/a", "/c", 3)


def test_a_merge_forgets_who_was_new() -> None:
    """Only the visitor's row can tell, and it may have changed with the same chunk."""
    first, second = alone(events_of([(0, 0, 1, "/a", None), (1, 0, 1, "/b", None)]))
    assert not merge(first._replace(new_visitor=True), second).new_visitor
