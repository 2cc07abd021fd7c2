"""Pages of long rows."""

from uuid import uuid4

from footfall.ingest.v1 import ingest_pb2
from footfall.query.v1 import query_pb2

from tests.support.footfall_site import FootfallSite
from tests.support.suite import Suite

MOST_BYTES = 4 * 1024 * 1024


def test_a_page_of_long_events_fits_a_message_and_loses_none(suite: Suite) -> None:
    """A page ends before it is too long for a client's default limit, and the pages hold every event once."""
    site = FootfallSite(suite, f"long-{uuid4().hex[:8]}")
    ids = [f"event-{number:04d}" for number in range(600)]
    for start in range(0, len(ids), 300):
        request = ingest_pb2.IngestBatchRequest(defaults=ingest_pb2.EventDefaults(visitor_id="v"))
        for event_id in ids[start : start + 300]:
            event = request.events.add(event_id=event_id, type=1, path="/" + "p" * 2000, title="t" * 2000)
            event.properties.update({"text": "x" * 4000})
        assert suite.ingest_stub().IngestBatch(request, metadata=(("x-write-key", site.write_key),)).accepted == 300
    listed: list[str] = []
    token, pages = "", 0
    while True:
        page = suite.query_stub().ListEvents(
            query_pb2.ListEventsRequest(site=site.slug, page_size=1000, page_token=token),
            metadata=(("authorization", f"Bearer {suite.admin_key}"),),
        )
        assert page.ByteSize() < MOST_BYTES
        assert page.has_more == bool(page.next_page_token)
        listed += [event.event_id for event in page.events]
        token, pages = page.next_page_token, pages + 1
        if not page.has_more:
            break
    assert pages > 1
    assert sorted(listed) == ids
