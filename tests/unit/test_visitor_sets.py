"""Sets and counts of visitors survive their bytes, and rows add up in any split and order."""

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap

from common.visitor_sets import HEAD_BYTES, cardinality_of, encode_counts, encode_set, positive_of_counts, union_of_sets

# Around the edges of Roaring's containers too.
visitor_numbers = st.one_of(st.integers(0, 20), st.integers(65_530, 65_540), st.integers(2**32 - 5, 2**32 - 1))
sets = st.lists(st.sets(visitor_numbers), max_size=6)
counts = st.lists(
    st.dictionaries(visitor_numbers, st.one_of(st.integers(-3, 3), st.sampled_from([-(2**31), 2**31 - 1]))), max_size=6
)


@given(sets)
def test_the_union_of_rows_is_the_union_of_their_sets(rows: list[set[int]]) -> None:
    assert set(union_of_sets(map(encode_set, rows))) == set().union(*rows)


@given(st.sets(visitor_numbers))
def test_one_set_survives_its_bytes(visitors: set[int]) -> None:
    assert set(union_of_sets([encode_set(visitors)])) == visitors


@given(st.lists(visitor_numbers, min_size=1, max_size=200))
def test_a_set_is_written_in_one_way_and_never_longer_than_a_bitmap(visitors: list[int]) -> None:
    """Whether given as a list with repeats or as a bitmap: rows that are equal are equal bytes."""
    bitmap = BitMap(visitors)
    bitmap.run_optimize()
    row = encode_set(visitors)
    assert row == encode_set(bitmap) == encode_set(set(visitors))
    assert len(row) <= len(bitmap.serialize())


def test_a_few_visitors_take_a_few_bytes() -> None:
    """A Roaring bitmap of one takes 18 bytes."""
    assert len(encode_set([300_000])) == 4
    assert len(encode_counts({300_000: 1})) == 6
    assert len(encode_set([7, 70_000, 300_000])) == 10


@given(st.sets(st.integers(0, 70_000), min_size=60, max_size=70), st.integers(-300, 300).filter(bool))
def test_counts_and_groups_of_any_size_survive_their_bytes(visitors: set[int], count: int) -> None:
    """Around what the short head of a group can say."""
    row = encode_counts(dict.fromkeys(visitors, count))
    assert set(positive_of_counts([row])) == (visitors if count > 0 else set())
    assert set(positive_of_counts([row, encode_counts(dict.fromkeys(visitors, 1 - count))])) == visitors


@given(st.one_of(st.sets(visitor_numbers), st.integers(1, 200_000).map(lambda end: set(range(end)))))
def test_the_head_of_a_set_tells_how_many_are_in_it(visitors: set[int]) -> None:
    """Of scattered numbers and of long runs, which Roaring writes in different forms; a head that is too short tells
    nothing."""
    row = encode_set(visitors)
    assert cardinality_of(row[:HEAD_BYTES]) == len(visitors)
    if row[0] > 4:  # a bitmap: a list is never longer than a head
        assert cardinality_of(row[:8]) in (None, len(visitors))


@given(counts)
def test_the_visitors_of_rows_are_those_whose_counts_add_up_to_more_than_nothing(rows: list[dict[int, int]]) -> None:
    total: Counter[int] = Counter()
    for row in rows:
        for visitor, count in row.items():
            total[visitor] += count
    expected = {visitor for visitor, count in total.items() if count > 0}
    assert set(positive_of_counts(map(encode_counts, rows))) == expected


@given(counts, st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(rows: list[dict[int, int]], dice: Random) -> None:
    encoded = [encode_counts(row) for row in rows]
    shuffled = dice.sample(encoded, len(encoded))
    assert positive_of_counts(shuffled) == positive_of_counts(encoded)


@given(st.dictionaries(visitor_numbers, st.integers(1, 5)), st.randoms(use_true_random=False))
def test_a_row_split_in_any_way_counts_the_same(row: dict[int, int], dice: Random) -> None:
    """Part of a visitor's count in one row, the rest in another: a session is taken back, another is given."""
    part = {visitor: dice.randint(-5, 5) for visitor in row}
    rest = {visitor: count - part[visitor] for visitor, count in row.items()}
    assert set(positive_of_counts([encode_counts(part), encode_counts(rest)])) == set(row)


@given(st.dictionaries(visitor_numbers, st.integers(-3, 3)))
def test_taking_back_everything_leaves_nobody(row: dict[int, int]) -> None:
    back = {visitor: -count for visitor, count in row.items()}
    assert not positive_of_counts([encode_counts(row), encode_counts(back)])


def test_a_row_without_counts_has_no_bytes() -> None:
    """So that a sum that came to nothing need not be stored."""
    assert encode_counts({}) == encode_counts({1: 0}) == b""


def test_reading_rows_changes_none_of_them() -> None:
    """The union of one row is that row's own bitmap; two readers of the same bytes see the same."""
    row = encode_set([1, 2, 3])
    union_of_sets([row]).add(4)
    assert set(union_of_sets([row])) == {1, 2, 3}
