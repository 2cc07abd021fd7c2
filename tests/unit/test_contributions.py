"""What is taken back and given anew leaves the sums that starting anew would give."""

from datetime import datetime
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from admin_svc.counting.rollup_deltas import Deltas
from admin_svc.counting.sessionize import Event, Session, session_of, sessions_of_stream
from common.dimensions import EVENT_DIMENSIONS
from common.visitor_sets import encode_set
from tests.unit.drawn_events import TIMEOUT, Drawn, drawn_events, events_of

Sums = dict[Any, tuple[list[int], dict[int, int]]]

RULES = {dimension.number: dimension.key for dimension in EVENT_DIMENSIONS}
streams = st.lists(drawn_events, min_size=1, max_size=3)


def sessions_of(events: list[tuple[int, Event]]) -> list[Session]:
    """The sessions of some visitors' events; each visitor's first is new."""
    found = []
    for visitor in sorted({number for number, _ in events}):
        parts = [session_of(visitor, [event]) for number, event in events if number == visitor]
        first, *others = sessions_of_stream(parts, TIMEOUT)
        found += [first._replace(new_visitor=True), *others]
    return found


def sums_of(deltas: Deltas) -> Sums:
    """What the rows say, without those that say nothing."""
    return {where: (counters, visitors) for where, counters, visitors in _rows(deltas)}


def _rows(deltas: Deltas) -> list[Any]:
    return [row for row in deltas.rows() if any(row[1]) or row[2]]


def add_events(deltas: Deltas, events: list[tuple[int, Event]]) -> None:
    """Adds visitors' events, by time as chunks read them."""
    ordered = sorted(events, key=lambda pair: pair[1].occurred_at)
    deltas.add_events([event for _, event in ordered], [visitor for visitor, _ in ordered])


def numbered(drawn: list[list[Drawn]]) -> list[tuple[int, Event]]:
    return [(visitor, event) for visitor, part in enumerate(drawn) for event in events_of(part)]


@given(streams, st.randoms(use_true_random=False), st.integers(1, 6))
def test_chunks_in_any_order_leave_the_sums_of_one_chunk(drawn: list[list[Drawn]], dice: Random, chunks: int) -> None:
    """After each chunk the sessions before it are taken back and those after it given."""
    events = numbered(drawn)
    at_once = Deltas()
    add_events(at_once, events)
    at_once.add_sessions(sessions_of(events))

    dice.shuffle(events)
    in_chunks, before = Deltas(), list[Session]()
    for chunk in range(chunks):
        add_events(in_chunks, events[chunk::chunks])
        after = sessions_of([one for earlier in range(chunk + 1) for one in events[earlier::chunks]])
        in_chunks.add_sessions(before, -1)
        in_chunks.add_sessions(after)
        before = after
    assert sums_of(in_chunks) == sums_of(at_once)


@given(drawn_events)
def test_what_is_given_and_taken_back_leaves_no_row(drawn: list[Drawn]) -> None:
    """So that a session that did not change costs nothing."""
    deltas = Deltas()
    for session in sessions_of([(0, event) for event in events_of(drawn)]):
        deltas.add_sessions([session])
        deltas.add_sessions([session], -1)
    assert list(deltas.rows()) == []


@given(drawn_events)
def test_an_event_counts_once_in_the_overview_and_at_most_once_in_any_dimension(drawn: list[Drawn]) -> None:
    for event in events_of(drawn):
        deltas = Deltas()
        deltas.add_events([event], [5])
        found = list(deltas.rows())
        dimensions = [where[0] for where, _, _ in found]
        assert dimensions.count(0) == 1
        assert len(set(dimensions)) == len(dimensions)
        for (number, hour, key), counters, visitors in found:
            assert counters == [1, int(event.type == 1), 0, 0, 0, 0]
            assert visitors == encode_set([5])
            assert key == RULES[number](event)
            assert hour == _whole(event.occurred_at)


def _whole(instant: datetime) -> datetime:
    return instant.replace(minute=0, second=0, microsecond=0)
