"""Where old data has gone, a range is answered from what is left: never from what may have gone, never of less."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from common.intervals import floor_day
from common.sites import ACTIVE, Site
from query_svc.effective_range import effective_range, floors_of
from query_svc.range_plan import NOTHING_GONE, Floors, plan_range
from tests.support.retention import DAY, HOUR, all_readable, readable

ORIGIN = datetime(2024, 2, 28, tzinfo=UTC)
DAYS = 4

hours = st.one_of(st.integers(0, DAYS * 24), st.integers(0, DAYS).map(lambda n: n * 24)).map(
    lambda n: ORIGIN + n * HOUR
)
days = st.integers(0, DAYS).map(lambda n: ORIGIN + n * DAY)
never = st.just(NOTHING_GONE.raw)
floors = st.builds(Floors, st.one_of(hours, never), st.one_of(hours, never), st.one_of(days, never))
# On, beside and between whole hours and days.
instants = st.builds(
    lambda hour, beside: hour + timedelta(minutes=beside, microseconds=beside % 3),
    hours,
    st.sampled_from((0, 0, 0, 1, -1, 30, 45)),
)
bounds = st.sets(instants, min_size=2, max_size=8).map(sorted)
many = settings(max_examples=300)


class Lost(NamedTuple):
    """What a site has no more: what is older than its floors, and raw events of its incomplete hours."""

    floors: Floors
    incomplete: frozenset[datetime] = frozenset()


def told_by_rollups(gone: Lost) -> Lost:
    """Without the incomplete hours of which no row of the hour or the day is left to tell more than raw events do."""
    floors = gone.floors
    return Lost(floors, frozenset(n for n in gone.incomplete if n >= floors.hours or floor_day(n) >= floors.days))


# None, a few hours or many.
incomplete = st.one_of(st.frozensets(hours, max_size=3), st.frozensets(hours, max_size=20))
losses = st.builds(Lost, floors, incomplete).map(told_by_rollups)


@many
@given(bounds, losses)
def test_only_data_that_is_there_is_read(cuts: list[datetime], gone: Lost) -> None:
    """Day rows, hour rows and raw events each from their floor on, together the whole effective range, once; and no
    raw events of incomplete hours."""
    found = effective_range(cuts[:-1], cuts[-1], *gone)
    assume(not found.empty)
    plan = plan_range(found.starts, found.end, gone.floors)
    for pieces, floor in (
        (plan.days, gone.floors.days),
        (plan.hours, gone.floors.hours),
        (plan.edges, gone.floors.raw),
    ):
        assert all(piece.start >= floor for piece in pieces)
    assert not any(edge.start < hour + HOUR and hour < edge.end for edge in plan.edges for hour in gone.incomplete)
    read = sorted((piece.start, piece.end) for pieces in plan for piece in pieces)
    assert [start for start, _ in read] == [found.starts[0], *(end for _, end in read[:-1])]
    assert read[-1][1] == found.end
    cut = [*found.starts, found.end]
    assert all(cut[n] <= start < end <= cut[n + 1] for pieces in plan for n, start, end in pieces)


@many
@given(bounds, losses)
def test_a_range_is_exact_when_and_only_when_its_data_is_there(cuts: list[datetime], gone: Lost) -> None:
    """Then the buckets are those asked for; otherwise some bound is another, and it says so."""
    found = effective_range(cuts[:-1], cuts[-1], *gone)
    assert found.exact == all_readable(cuts, *gone) == ([*found.starts, found.end] == cuts)


@many
@given(bounds, losses)
# Found: of a range before everything that is left, the answer was of the day after.
@example([ORIGIN, ORIGIN + HOUR], Lost(Floors(ORIGIN + HOUR, ORIGIN + HOUR, ORIGIN + DAY)))
def test_the_answer_is_of_no_less_than_was_asked(cuts: list[datetime], gone: Lost) -> None:
    """It holds the range but for what lies before every floor; when nothing is left it is of nothing."""
    found = effective_range(cuts[:-1], cuts[-1], *gone)
    bottom = min(gone.floors)
    assert found.empty == (cuts[-1] <= bottom)
    if not found.empty:
        assert found.starts[0] <= max(cuts[0], bottom)
        assert found.starts[0] >= bottom
        assert found.end >= cuts[-1]
    assert [*found.starts, found.end] == sorted({*found.starts, found.end}) or found.empty


@many
@given(bounds, losses)
# Found: the end moved because of data before the start of what is left.
@example([ORIGIN + 3 * HOUR, ORIGIN + 9 * HOUR], Lost(Floors(ORIGIN + 4 * DAY, ORIGIN + 7 * HOUR, ORIGIN + DAY)))
def test_a_bound_moves_no_further_than_its_data_asks(cuts: list[datetime], gone: Lost) -> None:
    """An end of the range that moved could not stay, and one that moved to a day could not stay at its hour."""
    start, end = cuts[0], cuts[-1]
    found = effective_range([start], end, *gone)
    assume(not found.empty)
    start = max(start, min(gone.floors))
    if found.starts[0] != start:
        assert start - found.starts[0] < DAY
        assert not readable(start, found.end, *gone)
        whole = start - (start - ORIGIN) % HOUR
        assert found.starts[0] == whole or not readable(whole, found.end, *gone)
    if found.end != end:
        assert found.end - end < DAY
        assert not readable(found.starts[0], end, *gone)
        whole = end + (ORIGIN - end) % HOUR
        assert found.end == whole or not readable(found.starts[0], whole, *gone)


@many
@given(bounds, losses)
def test_a_range_has_the_same_ends_however_it_is_cut(cuts: list[datetime], gone: Lost) -> None:
    """So that the buckets of a dashboard are of the range of its overview; every bound is one asked for, or the
    start of its hour or day."""
    cut, whole = effective_range(cuts[:-1], cuts[-1], *gone), effective_range(cuts[:1], cuts[-1], *gone)
    assert (cut.starts[0], cut.end, cut.empty) == (whole.starts[0], whole.end, whole.empty)
    asked = {*cuts, *(one - (one - ORIGIN) % unit for one in cuts for unit in (HOUR, DAY)), min(gone.floors)}
    assert set(cut.starts[1:]) <= asked


@given(st.builds(lambda hour, minutes: hour + timedelta(minutes=minutes), hours, st.integers(0, 59)))
def test_a_floor_inside_an_hour_or_a_day_counts_from_the_next_whole_one(at: datetime) -> None:
    """A part of an hour is not the hour: nobody must take what is left of it for all of it."""
    site = Site(1, "s", "", ACTIVE, 0, None, None, None, None, 0, 1, [], [], [], 0, at, at, at, at, at)
    found = floors_of(site)
    assert found.raw - at < HOUR
    assert found.days - at < DAY
    assert found.raw == found.hours >= at
    assert found.days >= at
    assert (found.raw - ORIGIN) % HOUR == (found.days - ORIGIN) % DAY == timedelta()
