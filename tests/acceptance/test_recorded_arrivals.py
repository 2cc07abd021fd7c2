"""The recorded cases in other orders, with gaps about the timeout, and sent again."""

from datetime import timedelta
from itertools import permutations
from random import Random
from typing import TYPE_CHECKING

import pytest
from footfall.ingest.v1 import ingest_pb2
from footfall.type.v1 import event_pb2

from tests.oracle.raw_events import DAY, MINUTE
from tests.oracle.recorded_cases import (
    BASIC_BATCHES,
    BASIC_RANGES,
    STREAM_BATCHES,
    STREAM_RANGES,
)
from tests.support.footfall_site import FootfallSite

if TYPE_CHECKING:
    from tests.support.suite import Suite
from tests.oracle.recorded_cases import EVERYTHING, recount_of
from tests.support.recorded_sites import ingest


@pytest.mark.parametrize("partitions", [1, 5, 64])
def test_the_order_of_arrival_changes_nothing(suite: "Suite", partitions: int) -> None:
    """Single events in random batches, aggregated in small chunks in between, over any number of partitions."""
    random = Random(partitions)
    site = FootfallSite(suite, f"golden-shuffled-{partitions}", rollup_shard_count=partitions)
    events = [(batch.request().defaults, event) for batch in STREAM_BATCHES for event in batch.request().events]
    random.shuffle(events)
    while events:
        for defaults, event in (events.pop() for _ in range(min(len(events), random.randrange(1, 60)))):
            response = site.send(ingest_pb2.IngestBatchRequest(defaults=defaults, events=[event]))
            assert response.accepted == 1
        site.aggregate(limit=random.randrange(1, 20))
    for recorded in (one for one in STREAM_RANGES if one.is_range):
        for query, expected, answered in site.compare(recount_of(STREAM_BATCHES), recorded.start, recorded.end):
            assert answered == expected, (recorded.label, query)


@pytest.mark.parametrize("arrival", list(permutations(range(3))))
def test_a_gap_of_exactly_the_timeout_goes_on_and_one_longer_ends_a_session(
    suite: "Suite", arrival: tuple[int, ...]
) -> None:
    """To the microsecond, whatever comes first; which the recorded stream does not try."""
    site = FootfallSite(suite, "golden-gap", session_timeout=timedelta(seconds=60))
    start = BASIC_RANGES[0].start
    times = [start, start + MINUTE, start + 2 * MINUTE + 1]
    for number in arrival:
        request = ingest_pb2.IngestBatchRequest(
            events=[ingest_pb2.Event(type=event_pb2.EVENT_TYPE_PAGEVIEW, visitor_id="v", path=f"/{number}")]
        )
        request.events[0].occurred_at.FromMicroseconds(times[number])
        site.send(request)
        site.aggregate()
    rows = site.session_rows()
    assert [(row.entry_page, row.exit_page, row.new_visitor) for row in rows] == [
        ("/2", "/2", False),
        ("/0", "/1", True),
    ]
    assert [row.end - row.start for row in rows] == [0, MINUTE]
    assert site.overview(start, start + DAY).sessions == 2


def test_a_replayed_batch_is_duplicate_and_changes_nothing(suite: "Suite") -> None:
    """Before and after aggregation, and within one batch."""
    site = FootfallSite(suite, "golden-again")
    ingest(site, BASIC_BATCHES)
    for _ in range(2):
        for batch in BASIC_BATCHES:
            response = site.send(batch.request())
            assert (response.accepted, response.duplicate) == (0, len(batch.raw_events()))
        site.aggregate()
    twice = STREAM_BATCHES[0].request()
    twice.events.extend(STREAM_BATCHES[0].request().events)
    response = site.send(twice)
    assert (response.accepted, response.duplicate) == (2, 2)
    site.aggregate()
    recount = recount_of([*BASIC_BATCHES, STREAM_BATCHES[0]])
    for query, expected, answered in site.compare(recount, BASIC_RANGES[0].start, EVERYTHING.end):
        assert answered == expected, query
