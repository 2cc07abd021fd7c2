"""A plan covers its range once: whole days and hours where they fit, raw edges for the rest."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from common.intervals import ceil_hour, floor_hour
from query_svc.occupied import Extent, within
from query_svc.range_plan import Piece, RangePlan, plan_range

ORIGIN = datetime(2024, 2, 28, tzinfo=UTC)
UNITS = {"days": timedelta(days=1), "hours": timedelta(hours=1)}
MICROSECOND = timedelta(microseconds=1)

# On, beside and between whole hours and days.
instants = st.builds(
    lambda minutes, micros: ORIGIN + timedelta(minutes=minutes, microseconds=micros),
    st.one_of(
        st.integers(0, 6000), st.integers(0, 100).map(lambda n: n * 60), st.integers(0, 4).map(lambda n: n * 1440)
    ),
    st.integers(-1, 1),
)
cuts = st.sets(instants, min_size=2, max_size=8).map(sorted)


def pieces_of(plan: RangePlan) -> list[Piece]:
    """Every piece of the plan, by start."""
    return sorted((piece for pieces in plan for piece in pieces), key=lambda piece: piece.start)


@given(cuts)
def test_the_pieces_are_disjoint_and_together_the_range(bounds: list[datetime]) -> None:
    """Each begins where the one before it ends, and none is empty."""
    *starts, end = bounds
    pieces = pieces_of(plan_range(starts, end))
    assert [piece.start for piece in pieces] == [starts[0], *(piece.end for piece in pieces[:-1])]
    assert pieces[-1].end == end
    assert all(piece.start < piece.end for piece in pieces)


@given(cuts)
def test_every_piece_lies_in_its_bucket(bounds: list[datetime]) -> None:
    *starts, end = bounds
    for piece in pieces_of(plan_range(starts, end)):
        assert bounds[piece.bucket] <= piece.start < piece.end <= bounds[piece.bucket + 1]


@given(cuts)
def test_rollups_are_read_in_whole_units_and_edges_hold_no_whole_hour(bounds: list[datetime]) -> None:
    *starts, end = bounds
    for kind, pieces in plan_range(starts, end)._asdict().items():
        for piece in pieces:
            if kind in UNITS:
                assert (piece.start - ORIGIN) % UNITS[kind] == (piece.end - ORIGIN) % UNITS[kind] == timedelta()
            else:
                assert kind == "edges"
                assert floor_hour(piece.start) == floor_hour(piece.end - MICROSECOND)
                assert piece.end - piece.start < UNITS["hours"]


@given(instants)
def test_an_hour_is_rounded_to_itself_and_anything_else_to_its_neighbours(instant: datetime) -> None:
    floor, ceil = floor_hour(instant), ceil_hour(instant)
    assert (floor - ORIGIN) % UNITS["hours"] == timedelta()
    assert floor <= instant <= ceil
    assert ceil - floor == (timedelta() if floor == instant else UNITS["hours"])


@given(cuts, st.tuples(st.integers(-2, 6), st.integers(1, 4)))
def test_a_plan_within_an_extent_is_what_of_the_whole_plan_lies_in_it(
    bounds: list[datetime], days: tuple[int, int]
) -> None:
    """Under the same numbers of buckets, so that what the site has nothing in is left out and nothing else."""
    *starts, end = bounds
    first = ORIGIN + timedelta(days=days[0])
    extent = Extent(first, first + timedelta(days=days[1]))
    buckets = within(extent, starts, end)
    cut = plan_range(buckets.starts, buckets.end, first=buckets.first) if buckets.starts else RangePlan([], [], [])
    inside = [
        piece._replace(start=max(piece.start, extent.start), end=min(piece.end, extent.end))
        for piece in pieces_of(plan_range(starts, end))
    ]
    assert pieces_of(cut) == [piece for piece in inside if piece.start < piece.end]
