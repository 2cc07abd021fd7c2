"""Which pending batches a chunk of aggregation takes."""

from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from footfall.admin.v1 import admin_pb2
from footfall.ingest.v1 import ingest_pb2
from footfall.type.v1 import event_pb2

from admin_svc.counting import event_reader
from tests.support.footfall_site import FootfallSite
from tests.support.poison import Worker

if TYPE_CHECKING:
    from tests.support.suite import Suite

_SEND_BACK = """
UPDATE pending_batches p SET received_at = p.received_at - interval '1 hour'
FROM events e WHERE e.site_id = p.site_id AND e.batch_id = p.batch_id AND e.visitor_id = %s AND p.site_id = %s
"""
_SITE = "SELECT site_id FROM sites WHERE slug = %s"
_COUNTED = "SELECT visitor_id FROM visitors WHERE site_id = %s"


@pytest.mark.parametrize("oldest", ["a", "b", "c"])
def test_what_came_first_is_aggregated_first_whatever_its_number(
    suite: "Suite", database: psycopg.Connection[Any], oldest: str
) -> None:
    """Each committer of ingest takes batch numbers from a block of its own, so they do not tell the order; and
    sessions are cheapest where their events are aggregated together."""
    site = FootfallSite(suite, "order")
    site_id = database.execute(_SITE, (site.slug,)).fetchone()
    assert site_id is not None
    for visitor in ("a", "b", "c"):
        event = ingest_pb2.Event(type=event_pb2.EVENT_TYPE_PAGEVIEW, visitor_id=visitor)
        site.ingest.IngestBatch(ingest_pb2.IngestBatchRequest(events=[event]), metadata=site.as_sender, timeout=20)
    database.execute(_SEND_BACK, (oldest, site_id[0]))
    request = admin_pb2.AggregatePendingRequest(site=site.slug, limit=1)
    chunk = site.operator.AggregatePending(request, metadata=site.as_admin, timeout=20)
    assert (chunk.aggregated, chunk.remaining) == (1, 2)
    assert database.execute(_COUNTED, site_id).fetchall() == [(oldest,)]


def test_a_chunk_ends_early_where_texts_are_long(
    worker: Worker, suite: "Suite", monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that no sender's long paths are more than the worker's memory holds; nothing is left out."""
    monkeypatch.setattr(event_reader, "MOST_TEXT", 20_000)
    monkeypatch.setattr(event_reader, "_EVENTS_A_READ", 10)
    monkeypatch.setattr(event_reader, "_SAMPLED", 1)
    site = FootfallSite(suite, "long")
    for number in range(12):
        paths = [f"/{number}/{place}/{'x' * 1_900}" for place in range(2)]
        events = [ingest_pb2.Event(type=event_pb2.EVENT_TYPE_PAGEVIEW, visitor_id="v", path=path) for path in paths]
        site.ingest.IngestBatch(ingest_pb2.IngestBatchRequest(events=events), metadata=site.as_sender, timeout=20)
    # Ten events are read at once, and twenty of these are enough.
    assert [chunk.aggregated for chunk in worker.run()] == [20, 4]
    assert worker.counts("pending_batches", site) == 0
