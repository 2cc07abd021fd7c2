"""An event that cannot be aggregated becomes a dead letter alone; nothing else waits for it or is lost with it."""

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests.support.footfall_site import FootfallSite
from tests.support.poison import Worker, bad_event, poisoned
from tests.support.traffic import assert_recounts, batch_of, made_up, metadata_of

if TYPE_CHECKING:
    from tests.support.suite import Suite


@pytest.mark.parametrize(
    ("table", "column", "sqlstate"),
    [
        ("visitors", "visitor_id", "P0001"),
        ("sessions", "page", "23514"),
        ("rollup_shards", "key", "22003"),
        ("rollup_shards", "key", "54000"),
    ],
)
def test_one_bad_event_is_tried_3_times_and_becomes_a_dead_letter_while_its_neighbours_are_aggregated(
    suite: "Suite", worker: Worker, table: str, column: str, sqlstate: str
) -> None:
    """Its chunk is taken apart at once; alone it waits 5 s, then 10 s, and its error is kept."""
    site = FootfallSite(suite, "poison")
    good, bad = made_up(41, visitors=20, events=400), bad_event(column)
    site.send(batch_of([*good[:250], bad]))
    site.send(batch_of(good[250:]))
    start = worker.now
    with poisoned(worker, table, column, sqlstate):
        chunks = worker.run()
        assert sum(chunk.aggregated for chunk in chunks) == len(good)
        assert len(chunks) < 40
        assert_recounts(site, good, not_aggregated=[bad])
        # After the first attempt, just before the second, after it, just before the third.
        for seconds in (0.0, 4.999, 5.0, 14.999):
            worker.now = start + timedelta(seconds=seconds)
            assert sum(chunk.failed for chunk in worker.run()) == 0
            assert metadata_of(site).pending_events == 1
            assert worker.counts("failed_events", site) == 0
        worker.now = start + timedelta(seconds=15)
        assert sum(chunk.failed for chunk in worker.run()) == 1
    metadata = metadata_of(site)
    assert (metadata.pending_events, metadata.failed_events) == (0, 1)
    kept = worker.connection.execute("SELECT attempts, error FROM failed_events ORDER BY failed_at DESC LIMIT 1")
    attempts, error = kept.fetchall()[0]
    assert attempts == 3
    assert "this is poison" in error
    assert_recounts(site, good, not_aggregated=[bad])


def test_a_bad_event_that_is_good_again_in_time_is_aggregated(suite: "Suite", worker: Worker) -> None:
    """What was wrong was not the event: once it is mended, the second attempt counts it."""
    site = FootfallSite(suite, "mended")
    events = [*made_up(42, visitors=5, events=50), bad_event("visitor_id")]
    site.send(batch_of(events))
    with poisoned(worker, "visitors", "visitor_id"):
        worker.run()
    worker.now += timedelta(seconds=5)
    worker.run()
    assert metadata_of(site).pending_events == 0
    assert_recounts(site, events)


def test_bad_events_hold_up_no_other_partition_and_no_other_site(suite: "Suite", worker: Worker) -> None:
    """While three of them back off, the other site and every other event of their own site is aggregated."""
    bad_site = FootfallSite(suite, "several-bad", rollup_shard_count=4)
    other_site = FootfallSite(suite, "not-bad")
    good, others = made_up(43, visitors=40, events=300), made_up(44, visitors=20, events=300)
    bad = [bad_event("path", number) for number in range(3)]
    batch = [*good[:100], bad[0], *good[100:200], bad[1], bad[2], *good[200:]]
    bad_site.send(batch_of(batch))
    other_site.send(batch_of(others))
    with poisoned(worker, "sessions", "page"):
        chunks = worker.run()
        assert sum(chunk.aggregated for chunk in chunks) == len(good) + len(others)
        assert metadata_of(bad_site).pending_events == len(bad)
        assert metadata_of(other_site).pending_events == 0
        # New events do not wait behind the bad ones.
        late = made_up(45, visitors=40, events=100)
        bad_site.send(batch_of(late))
        assert sum(chunk.aggregated for chunk in worker.run()) == len(late)
    assert_recounts(other_site, others)
    worker.now += timedelta(seconds=5)
    worker.run()
    assert_recounts(bad_site, [*good, *late, *bad])
