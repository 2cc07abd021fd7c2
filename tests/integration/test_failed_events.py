"""Failed events: listed with their errors, tried again on demand, and in nobody's way."""

from typing import Any

import pytest
from footfall.admin.v1 import admin_pb2

from tests.oracle.raw_events import SECOND, RawEvent
from tests.support.footfall_site import FootfallSite, walk
from tests.support.poison import Worker, bad_event, poisoned
from tests.support.refusals import invalid, refusal_of
from tests.support.site_rows import site_id_of
from tests.support.suite import Suite
from tests.support.traffic import assert_recounts, batch_of, made_up, metadata_of
from tests.support.upkeep import state_of


def failed(site: FootfallSite, page_size: int = 0) -> list[admin_pb2.FailedEvent]:
    """Every failed event of the list, page by page."""
    request = admin_pb2.ListFailedEventsRequest(site=site.slug, page_size=page_size)
    pages = walk(request, lambda page: site.operator.ListFailedEvents(page, metadata=site.as_admin))
    return [event for page in pages for event in page.failed_events]


def retry(site: FootfallSite, limit: int = 0) -> admin_pb2.RetryFailedEventsResponse:
    """One page."""
    request = admin_pb2.RetryFailedEventsRequest(site=site.slug, limit=limit)
    answer: admin_pb2.RetryFailedEventsResponse = site.operator.RetryFailedEvents(request, metadata=site.as_admin)
    return answer


def site_with_failures(suite: Suite, worker: Worker, bad: int, seed: int) -> tuple[FootfallSite, list[RawEvent]]:
    """A site of which so many events have failed while a trigger refused them; and all its events."""
    site, good = FootfallSite(suite, "failures"), made_up(seed, visitors=6, events=40)
    events = [*good[:20], *(bad_event("path", number) for number in range(bad)), *good[20:]]
    site.send(batch_of(events[: len(events) // 2]))
    site.send(batch_of(events[len(events) // 2 :]))
    with poisoned(worker, "sessions", "page"):
        worker.fail(site)
    assert worker.counts("failed_events", site) == bad
    return site, events


def test_a_failed_event_is_listed_with_what_it_failed_with(suite: Suite, worker: Worker) -> None:
    """Its id as it was sent, its visitor, its times, its three attempts and its error; not another site's."""
    site, _ = site_with_failures(suite, worker, 1, 551)
    other = FootfallSite(suite, "none-failed")
    [event] = failed(site)
    bad = bad_event("path", 0)
    assert (event.event_id, event.visitor_id, event.attempts) == (bad.event_id, bad.visitor_id, 3)
    assert event.occurred_at.ToMicroseconds() == bad.occurred_at
    assert "this is poison" in event.error
    assert event.received_at.ToMicroseconds() < event.failed_at.ToMicroseconds()
    assert failed(other) == []


@pytest.mark.parametrize("page_size", [1, 2, 3, 5, 6])
def test_pages_of_the_list_hold_every_failed_event_once_in_order(suite: Suite, worker: Worker, page_size: int) -> None:
    """In the order in which they were stored; a token goes only with its own site."""
    site, events = site_with_failures(suite, worker, 5, 552)
    expected = [event.event_id for event in events if event.visitor_id.startswith("poisoner")]
    assert [event.event_id for event in failed(site, page_size)] == expected
    if page_size < 5:
        request = admin_pb2.ListFailedEventsRequest(site=site.slug, page_size=page_size)
        token = site.operator.ListFailedEvents(request, metadata=site.as_admin).next_page_token
        elsewhere = admin_pb2.ListFailedEventsRequest(site=FootfallSite(suite, "else").slug, page_token=token)
        refused = refusal_of(site.operator.ListFailedEvents, elsewhere, metadata=site.as_admin)
        assert refused == invalid("PAGE_TOKEN_INVALID", "page_token")


@pytest.mark.parametrize("limit", [1, 2, 5, 6, 0])
def test_a_retried_event_that_is_fine_now_is_aggregated_once(suite: Suite, worker: Worker, limit: int) -> None:
    """Chunk by chunk, the first stored first; has_more exactly while some are left; again does no harm."""
    site, events = site_with_failures(suite, worker, 5, 553)
    expected = [event.event_id for event in failed(site)]
    requeued, has_more = 0, True
    while has_more:
        chunk = retry(site, limit)
        assert chunk.requeued == min(limit or 5, 5 - requeued)
        requeued, has_more = requeued + chunk.requeued, chunk.has_more
        assert has_more == (requeued < 5)
        assert [event.event_id for event in failed(site)] == expected[requeued:]
        assert state_of(site).pending_events == requeued
    assert retry(site).requeued == 0
    worker.run()
    assert_recounts(site, events)
    assert (metadata_of(site).failed_events, metadata_of(site).pending_events) == (0, 0)
    assert retry(site).requeued == 0
    worker.run()
    assert_recounts(site, events)


def test_an_event_that_fails_again_gets_three_attempts_more_and_holds_nobody_up(suite: Suite, worker: Worker) -> None:
    """New events and another site are aggregated meanwhile, and it becomes a dead letter with its latest error."""
    site, events = site_with_failures(suite, worker, 2, 554)
    other, others = FootfallSite(suite, "beside-retries"), made_up(555, visitors=5, events=50)
    assert retry(site).requeued == 2
    late = made_up(556, visitors=6, events=30)
    with poisoned(worker, "sessions", "page", "23514"):
        site.send(batch_of(late))
        other.send(batch_of(others))
        aggregated = sum(chunk.aggregated for chunk in worker.run())
        assert aggregated == len(late) + len(others)
        assert state_of(site).pending_events == 2
        worker.fail(site)
    assert state_of(site).failed_events == 2
    assert all("CheckViolation" in event.error and event.attempts == 3 for event in failed(site))
    bad = [event for event in events if event.visitor_id.startswith("poisoner")]
    assert_recounts(site, [event for event in [*events, *late] if event not in bad], not_aggregated=bad)
    assert_recounts(other, others)


def test_a_retry_of_one_site_leaves_another_sites_failures(suite: Suite, worker: Worker) -> None:
    """Each is asked for by its name; limits are checked as everywhere."""
    one, _ = site_with_failures(suite, worker, 2, 557)
    two, _ = site_with_failures(suite, worker, 2, 558)
    assert retry(one).requeued == 2
    assert len(failed(two)) == 2
    assert refusal_of(retry, one, -1) == invalid("VALUE_OUT_OF_RANGE", "limit")
    assert retry(two, 2**31 - 1).requeued == 2


def test_status_tells_pending_failed_and_how_long_the_oldest_waits(suite: Suite, worker: Worker) -> None:
    """The age is that of the oldest pending event's arrival; it is absent when nothing is pending."""
    site, _ = site_with_failures(suite, worker, 3, 559)
    state = state_of(site)
    assert (state.pending_events, state.failed_events) == (0, 3)
    assert not state.HasField("oldest_pending_age")
    site.send(batch_of(made_up(560, visitors=2, events=7)))
    site_id: Any = site_id_of(worker.connection, site)
    worker.connection.execute(
        "UPDATE pending_batches SET received_at = now() - interval '1 hour' WHERE site_id = %s", (site_id,)
    )
    state = state_of(site)
    assert state.pending_events == 7
    assert 3_600 <= state.oldest_pending_age.ToMicroseconds() / SECOND < 3_700
    assert not state.rebuilding
