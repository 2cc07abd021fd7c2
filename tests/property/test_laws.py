"""Once, order-free, recount, compaction changes nothing: whatever happens, in whatever order, the numbers agree."""

from hypothesis import given
from hypothesis import strategies as st

from tests.property import examples
from tests.property.laws import assert_order_free, assert_recount
from tests.property.streams import Stream, streams
from tests.support.hands import Hands

several = st.lists(streams(), min_size=1, max_size=3)


@given(data=st.data(), sites=several)
@examples(0.25)
def test_every_answer_and_table_equals_the_recount(hands: Hands, data: st.DataObject, sites: list[Stream]) -> None:
    """Over any ranges, at any moment: with events pending (they are left out, and their number is told), with deltas
    not compacted, half compacted and compacted; whatever else happens on other sites with the same visitors and event
    ids."""
    assert_recount(hands, data, sites)


@given(data=st.data(), stream=streams())
@examples(0.15)
def test_two_orders_of_the_same_events_leave_the_same_tables(hands: Hands, data: st.DataObject, stream: Stream) -> None:
    """Permuted, batched, repeated, aggregated and compacted differently, over different partitions: everything but
    visitor numbers and the deltas of a sum is the same, and so is every answer."""
    assert_order_free(hands, data, stream)
