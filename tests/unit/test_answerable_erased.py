"""Bounds move out of erased hours, and nothing else does."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from common.intervals import ceil_hour, floor_hour
from query_svc.effective_range import effective_range
from query_svc.range_plan import NOTHING_GONE, plan_range

ORIGIN = datetime(2024, 2, 28, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)

instants = st.builds(
    lambda minutes, micros: ORIGIN + timedelta(minutes=minutes, microseconds=micros),
    st.one_of(st.integers(0, 600), st.integers(0, 10).map(lambda hour: hour * 60)),
    st.integers(-1, 1),
)
cuts = st.sets(instants, min_size=2, max_size=8).map(sorted)
hours = st.frozensets(st.integers(-1, 10).map(lambda hour: ORIGIN + hour * HOUR))


@given(cuts, hours)
def test_no_edge_lies_in_an_erased_hour_and_nothing_is_lost(
    bounds: list[datetime], erased: frozenset[datetime]
) -> None:
    """What is answered holds the range, and no more of it than the erased hours at its ends."""
    *starts, end = bounds
    found = effective_range(starts, end, NOTHING_GONE, erased)
    assert found.starts == sorted(set(found.starts))
    assert found.starts[0] <= starts[0] < end <= found.end
    for bound in (*found.starts, found.end):
        assert floor_hour(bound) == bound or floor_hour(bound) not in erased
    assert found.starts[0] == (floor_hour(starts[0]) if floor_hour(starts[0]) in erased else starts[0])
    assert found.end == (ceil_hour(end) if floor_hour(end) in erased else end)
    assert found.exact == ([*found.starts, found.end] == bounds)
    for edge in plan_range(found.starts, found.end).edges:
        assert floor_hour(edge.start) not in erased


@given(cuts, hours)
def test_bounds_in_other_hours_stay(bounds: list[datetime], erased: frozenset[datetime]) -> None:
    *starts, end = bounds
    found = effective_range(starts, end, NOTHING_GONE, erased)
    assert {bound for bound in bounds if floor_hour(bound) not in erased} <= {*found.starts, found.end}


@given(cuts, hours, st.integers(-1, 12).map(lambda hour: ORIGIN + hour * HOUR))
def test_where_hour_rows_are_gone_no_bound_stays_inside_a_day_with_an_erased_hour_in_the_range(
    bounds: list[datetime], erased: frozenset[datetime], hours_from: datetime
) -> None:
    """The day row tells more than the raw events do. Without one of that day, they are all that is left."""
    *starts, end = bounds
    gone = NOTHING_GONE._replace(hours=hours_from)
    found = effective_range(starts, end, gone, erased)
    by_raw = [hour for hour in erased if hour < hours_from and starts[0] < hour + HOUR and hour < end]
    for edge in plan_range(found.starts, found.end, gone).edges:
        assert not any(edge.start < hour + HOUR and hour < edge.end for hour in erased)
    if not by_raw:
        assert found == effective_range(starts, end, NOTHING_GONE, erased)
    no_days = gone._replace(days=ORIGIN + 2 * DAY)
    assert effective_range(starts, end, no_days, erased) == effective_range(starts, end, NOTHING_GONE, erased)
