"""Once, order-free, recount, compaction changes nothing: whatever happens, in whatever order, the numbers agree."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tests.property import examples
from tests.property.driver import play
from tests.property.streams import Stream, histories, limits, partitions, spans, streams, whole
from tests.support.hands import Hands

several = st.lists(streams(), min_size=1, max_size=3)


@given(data=st.data(), sites=several)
@examples(0.25)
def test_every_answer_and_table_equals_the_recount(hands: Hands, data: st.DataObject, sites: list[Stream]) -> None:
    """Over any ranges, at any moment: with events pending (they are left out, and their number is told), with deltas
    unfolded, half folded and folded; whatever else happens on other sites with the same visitors and event ids."""
    history = data.draw(histories(sites), label="history")
    cuts = [data.draw(spans(stream), label="span") for stream in sites]
    played = play(hands, sites, history)
    for site, cut in zip(played, cuts, strict=True):
        site.check_tables()
        site.drain(data.draw(limits, label="page"))
        site.check([cut])
        for _ in range(data.draw(st.integers(0, 3), label="folds")):
            site.compact(data.draw(limits, label="fold"))
        site.check_answers([cut])


@given(data=st.data(), stream=streams())
@examples(0.15)
def test_two_orders_of_the_same_events_leave_the_same_tables(hands: Hands, data: st.DataObject, stream: Stream) -> None:
    """Permuted, batched, repeated, aggregated and folded differently, over different partitions: everything but visitor
    numbers and the deltas of a sum is the same, and so is every answer."""
    other = replace(stream, partitions=data.draw(partitions))
    [one] = play(hands, [stream], data.draw(histories([stream], asks=0), label="one order"))
    [two] = play(hands, [other], data.draw(histories([other], asks=0), label="another order"))
    for site in (one, two):
        site.drain()
    two.compact_all(data.draw(limits, label="fold"))
    assert one.tables() == two.tables()
    for span in (whole(stream), data.draw(spans(stream), label="span")):
        recount = one.recount()
        answers = [[answered for _, _, answered in site.site.compare(recount, *span)] for site in (one, two)]
        assert answers[0] == answers[1]
