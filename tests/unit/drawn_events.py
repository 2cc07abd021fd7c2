"""Drawn events of one stream, as aggregation reads them."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import strategies as st

from admin_svc.counting.sessionize import Event

TIMEOUT = timedelta(minutes=30)
TICK = timedelta(minutes=5)
START = datetime(2024, 2, 28, 23, 0, tzinfo=UTC)

Drawn = tuple[int, int, int, str | None, str | None]
"""Ticks and microseconds since START, type, path and browser."""

# Few instants close together: ties, gaps of exactly the timeout and a microsecond beside it are common.
drawn_events = st.lists(
    st.tuples(
        st.integers(0, 40),
        st.integers(-1, 1),
        st.integers(1, 3),
        st.sampled_from([None, "/a", "/b", "/c"]),
        st.sampled_from([None, "one", "two"]),
    ),
    min_size=1,
    max_size=24,
)


def events_of(drawn: list[Drawn]) -> list[Event]:
    """The events of one stream, with ids in an order of their own."""
    made = []
    for number, (ticks, micros, kind, path, browser) in enumerate(drawn):
        texts = dict.fromkeys(("user_id", "referrer", "device", "os", "country", "utm_source", "utm_medium", "source"))
        made.append(
            Event(
                occurred_at=START + ticks * TICK + timedelta(microseconds=micros),
                event_id=str(UUID(int=number * 7919 % 104_729)),
                type=kind,
                visitor_id="v",
                session_id="s",
                name="n" if kind == 2 else None,
                path=path,
                browser=browser,
                utm_campaign=None,
                traits=None,
                **texts,
            )
        )
    return made
