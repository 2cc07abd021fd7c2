"""An acknowledged event is counted exactly once within its dedupe retention, and once more after it."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from common.db import Database
from common.sites import find_site
from ingest_svc.database_commit import DatabaseCommit
from ingest_svc.event_rows import to_rows
from ingest_svc.store_events import Incoming
from tests.oracle.raw_events import HOUR, MINUTE, TOUCH_FIELDS, RawEvent, stored_id
from tests.property import examples
from tests.property.driver import PlayedSite
from tests.property.requests import duration, request_of
from tests.property.streams import Stream, streams, whole
from tests.support.hands import Hands

RETENTION = HOUR
START = datetime(2024, 5, 1, tzinfo=UTC)


def key_of(event: RawEvent) -> str:
    """What makes two events one: the id, or without one all that the event says."""
    if event.event_id:
        return str(stored_id(event.event_id))
    return json.dumps(asdict(replace(event, name=event.name.strip())), sort_keys=True)


@st.composite
def resendings(draw: st.DrawFn, stream: Stream) -> list[tuple[int, list[list[RawEvent]]]]:
    """Groups of calls, each at so many microseconds after the one before, of events some of which have no id. Of those
    some differ in one field alone."""
    events = [replace(event, event_id="") if draw(st.booleans()) else event for event in stream.events]
    for event in [event for event in events if not event.event_id]:
        name = draw(st.sampled_from(("name", "user_id", "path", "title", *TOUCH_FIELDS)))
        changed: dict[str, Any] = {name: f"{getattr(event, name)}!"}
        events.append(replace(event, **changed))
    calls = st.lists(st.lists(st.sampled_from(events), min_size=1, max_size=5), min_size=1, max_size=3)
    pauses = st.sampled_from((0, MINUTE, RETENTION - 1, RETENTION, RETENTION + 1, RETENTION // 2))
    return draw(st.lists(st.tuples(pauses, calls), min_size=1, max_size=6))


@given(data=st.data(), stream=streams(most=5))
@examples(0.06)
def test_a_key_is_reserved_for_the_retention_and_then_reserved_again(
    hands: Hands, data: st.DataObject, stream: Stream
) -> None:
    """Within one call, across the calls of a group and across groups; an expired key counts as new, and from then on
    it is known again for the whole retention."""
    site = PlayedSite(hands, stream, dedupe_retention=duration(RETENTION))
    known = find_site(hands.connection, site.site.slug)
    reserved_until: dict[str, datetime] = {}
    now, total = START, 0
    db = Database(hands.suite.database_url, application="property tests", pool_size=1)
    commit = DatabaseCommit(db, lambda: now)
    for pause, calls in data.draw(resendings(stream), label="groups"):
        now += timedelta(microseconds=pause)
        expected = [_accepted(call, reserved_until, now) for call in calls]
        group = []
        for call in calls:
            rows, errors = to_rows(request_of(call), known, datetime.now(UTC))
            assert not errors
            group.append(Incoming(known, rows, now))
        assert commit(group) == expected
        total += sum(expected)
    commit.close()
    db.close()
    site.drain()
    assert site.site.overview(*whole(stream)).events == total
    assert len(site.site.events()) == total


def _accepted(call: Sequence[RawEvent], reserved_until: dict[str, datetime], now: datetime) -> int:
    """How many of the call's events are new; reserves their keys."""
    accepted = 0
    for event in call:
        if reserved_until.get(key_of(event), now) <= now:
            reserved_until[key_of(event)] = now + timedelta(microseconds=RETENTION)
            accepted += 1
    return accepted
