"""Lists of the recorded cases: the rows and pages that were recorded, and every row once."""

from typing import TYPE_CHECKING

import pytest
from footfall.query.v1 import query_pb2

from tests.oracle.raw_events import MILLISECOND
from tests.oracle.recorded_cases import (
    BASIC,
    STREAM_BATCHES,
    rows,
)
from tests.support.footfall_site import FootfallSite, time_range

if TYPE_CHECKING:
    from tests.support.suite import Suite
from tests.oracle.recorded_cases import recount_of
from tests.support.recorded_sites import ingest


def test_raw_events_are_listed_as_recorded(basic: FootfallSite) -> None:
    """Newest first, with and without a range; an event's user is what its sender said."""
    columns = {
        "occurredAt": "occurred_at",
        "visitorId": "visitor_id",
        "sessionId": "session_id",
        "path": "path",
        "title": "title",
        "referrer": "referrer",
        "source": "source",
        "utmSource": "utm_source",
        "utmCampaign": "utm_campaign",
        "dedupeKey": "event_id",
        "identifiedUserId": "user_id",
        "eventType": "type",
        "properties": "properties",
    }
    for step in BASIC:
        if step["op"] == "listRawEvents":
            args = step["args"]
            span = (args["from"] * MILLISECOND, args["to"] * MILLISECOND) if args else None
            listed = basic.events(span)
            recorded = rows(step["result"])
            assert len(listed) == len(recorded)
            for event, row in zip(listed, recorded, strict=True):
                for column, name in columns.items():
                    if name == "properties":
                        assert event.properties == row.get(column, {})
                    elif name == "occurred_at":
                        assert event.occurred_at == row[column] * MILLISECOND
                    else:
                        assert getattr(event, name) == row.get(column, ""), column


def test_raw_events_come_in_the_recorded_pages(basic: FootfallSite) -> None:
    [step] = [step for step in BASIC if step["op"] == "listRawEventsPaged"]
    span = time_range(step["args"]["from"] * MILLISECOND, step["args"]["to"] * MILLISECOND)
    request = query_pb2.ListEventsRequest(site=basic.slug, range=span, page_size=step["numItems"])
    for recorded in step["pages"]:
        page = basic.query.ListEvents(request, metadata=basic.as_admin)
        times = [event.occurred_at.ToMilliseconds() for event in page.events]
        assert times == [row["occurredAt"] for row in recorded["rows"]]
        assert page.has_more is not recorded["isDone"]
        request.page_token = page.next_page_token


@pytest.mark.parametrize("page_size", [1, 7, 640, 1000])
def test_pages_of_any_size_hold_every_row_once(stream: FootfallSite, page_size: int) -> None:
    assert stream.events(page_size=page_size) == stream.events()
    assert stream.session_rows(page_size=page_size) == stream.session_rows()
    assert stream.visitors(page_size=page_size) == stream.visitors()
    assert len(stream.events()) == 640
    assert len(stream.session_rows()) == 66
    assert len(stream.visitors()) == len({event.visitor_id for event in recount_of(STREAM_BATCHES).all_events})


def test_the_pages_of_a_list_hold_every_row_once_while_rows_arrive(suite: "Suite") -> None:
    """What was there at the first page is seen once, whatever is stored meanwhile."""
    site = FootfallSite(suite, "golden-arrivals")
    ingest(site, STREAM_BATCHES[1::2])
    there = {event.event_id for batch in STREAM_BATCHES[1::2] for event in batch.raw_events()}
    seen: list[str] = []
    request = query_pb2.ListEventsRequest(site=site.slug, page_size=20)
    arriving = iter(STREAM_BATCHES[0::2])
    while True:
        page = site.query.ListEvents(request, metadata=site.as_admin)
        seen += [event.event_id for event in page.events]
        if not page.has_more:
            break
        request.page_token = page.next_page_token
        ingest(site, [batch for _, batch in zip(range(4), arriving, strict=False)])
    assert len(seen) == len(set(seen))
    assert there <= set(seen)
