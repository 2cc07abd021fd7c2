"""Two of the laws as functions: what they demand of a suite, whatever database it stands on."""

from dataclasses import replace

from hypothesis import strategies as st

from tests.property.driver import play
from tests.property.streams import Stream, histories, limits, partitions, spans, whole
from tests.support.hands import Hands


def assert_recount(hands: Hands, data: st.DataObject, sites: list[Stream]) -> None:
    """Every answer and table equals the recount."""
    history = data.draw(histories(sites), label="history")
    cuts = [data.draw(spans(stream), label="span") for stream in sites]
    played = play(hands, sites, history)
    for site, cut in zip(played, cuts, strict=True):
        site.check_tables()
        site.drain(data.draw(limits, label="page"))
        site.check([cut])
        for _ in range(data.draw(st.integers(0, 3), label="compactions")):
            site.compact(data.draw(limits, label="chunk"))
        site.check_answers([cut])


def assert_order_free(hands: Hands, data: st.DataObject, stream: Stream) -> None:
    """Two orders of the same events leave the same tables and answers."""
    other = replace(stream, partitions=data.draw(partitions))
    [one] = play(hands, [stream], data.draw(histories([stream], asks=0), label="one order"))
    [two] = play(hands, [other], data.draw(histories([other], asks=0), label="another order"))
    for site in (one, two):
        site.drain()
    two.compact_all(data.draw(limits, label="chunk"))
    assert one.tables() == two.tables()
    for span in (whole(stream), data.draw(spans(stream), label="span")):
        recount = one.recount()
        answers = [[answered for _, _, answered in site.site.compare(recount, *span)] for site in (one, two)]
        assert answers[0] == answers[1]
