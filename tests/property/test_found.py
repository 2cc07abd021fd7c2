"""The smallest streams that tell a missing guard, where random ones need many examples to: plain stories.

Each event is sent and aggregated alone, or all at once, in the order given, and the tables and answers are the
recount's.
"""

import pytest

from tests.oracle.recount import HOUR, MINUTE, RawEvent
from tests.property.driver import PlayedSite
from tests.property.streams import Send, Stream, event_id
from tests.support.hands import Hands

AT = 1_711_843_200_000_000
TIMEOUT = 30 * MINUTE


def event(
    number: int,
    minutes: int,
    micros: int = 0,
    *,
    kind: str = "pageview",
    path: str = "",
    user: str = "",
    stream: str = "",
    id_: str = "",
) -> RawEvent:
    """An event of one visitor, so long after a midnight."""
    at = AT + minutes * MINUTE + micros
    name = "buy" if kind == "track" else ""
    return RawEvent(id_ or event_id(number), kind, at, "ann", name=name, path=path, user_id=user, session_id=stream)


STORIES = {
    "of two paths of one instant the smaller id is the entry, also when it comes last": [
        event(5, 0, kind="track"),
        event(9, 5, path="/later"),
        event(2, 5, path="/earlier"),
    ],
    "of two paths of one instant the larger id is the exit, also when it comes first": [
        event(1, 0, path="/"),
        event(9, 5, path="/last"),
        event(2, 5, path="/before"),
    ],
    "of two identifies of one instant the larger id counts, also when it comes first": [
        event(9, 0, kind="identify", user="last"),
        event(2, 0, kind="identify", user="before"),
    ],
    "a later identify without a user unlinks": [
        event(2, 5, kind="identify"),
        event(1, 0, kind="identify", user="once"),
    ],
    "an event inside a session does not end it": [event(1, 0), event(2, 20), event(3, 10)],
    "a session is found that began long before the timeout": [
        *(event(number, 20 * number) for number in range(6)),
        event(9, 110),
    ],
    "a gap of exactly the timeout is none, a microsecond more is one": [
        event(1, 0),
        event(2, 30),
        event(3, 60, 1),
        event(4, 90),
        event(5, 120),
    ],
    "an earlier event in another stream takes new_visitor away": [
        event(3, 65, stream="s1", path="/a"),
        event(2, 65, stream="s2", path="/b"),
        event(1, -70, path="/c"),
    ],
    "of ids that are no UUIDs the hash tells which is the earlier, not the text": [
        event(0, 0, path=f"/{text}", id_=text) for text in ("a", "B", "2", "Größe")
    ],
    "what only looks like a UUID is a text": [
        event(0, 0, path=f"/{number}", id_=shape.format(event_id(number)), user=f"u{number}", kind="identify")
        for number, shape in enumerate(("{}", "{{{}}}", "urn:uuid:{}", " {}", "{} "))
    ],
    "a session that moves to the day before leaves nothing in the old one": [event(1, 10, path="/"), event(2, -10)],
}


@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("backwards", [False, True])
def test_the_story_ends_in_the_recount(hands: Hands, story: str, backwards: bool) -> None:
    """Folded after every event, read whole and by the hour around it."""
    events = STORIES[story][::-1] if backwards else STORIES[story]
    site = PlayedSite(hands, Stream(tuple(events), TIMEOUT, partitions=1))
    for one in events:
        site.send(Send(0, (one,), key=0, with_defaults=False))
        site.drain()
        site.compact(limit=1)
        site.check_tables()
    site.check([(AT - HOUR, AT), (AT, AT + HOUR), (AT + 5 * MINUTE, AT + HOUR + 1)])
    site.compact_all()
    site.check()


@pytest.mark.parametrize("story", STORIES)
@pytest.mark.parametrize("backwards", [False, True])
def test_the_story_told_at_once_ends_in_the_recount(hands: Hands, story: str, backwards: bool) -> None:
    """In one batch and one page, in either order."""
    events = STORIES[story][::-1] if backwards else STORIES[story]
    site = PlayedSite(hands, Stream(tuple(events), TIMEOUT, partitions=1))
    site.send(Send(0, tuple(events), key=0, with_defaults=False))
    site.drain()
    site.check()
