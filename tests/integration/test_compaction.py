"""CompactRollups: chunks that end, whatever is written meanwhile, and change nothing that can be read."""

import pytest
from footfall.admin.v1 import admin_pb2

from admin_svc.counting import compact as product
from common.db import Database
from tests.oracle.raw_events import DAY, HOUR, RawEvent
from tests.support.footfall_site import FootfallSite
from tests.support.hands import LATER, Hands
from tests.support.refusals import invalid, refusal_of
from tests.support.suite import Suite
from tests.support.traffic import START, assert_recounts, batch_of, made_up
from tests.support.upkeep import compact, instant, state_of

_LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"


def chunk_of(
    site: FootfallSite, limit: int = 0, token: str = "", interval: int = 0
) -> admin_pb2.CompactRollupsResponse:
    """One chunk."""
    request = admin_pb2.CompactRollupsRequest(
        site=site.slug,
        limit=limit,
        page_token=token,
        interval=interval,  # type: ignore[arg-type]  # also numbers that are none
    )
    answer: admin_pb2.CompactRollupsResponse = site.operator.CompactRollups(request, metadata=site.as_admin)
    assert answer.has_more == (answer.next_page_token != "")
    return answer


def view(number: int, at: int) -> RawEvent:
    """A pageview of a visitor of its own."""
    return RawEvent(
        event_id=f"00000000-0000-7000-a000-{number:012}",
        type="pageview",
        occurred_at=at,
        visitor_id=f"v{number}",
        path="/",
    )


@pytest.mark.parametrize("limit", [1, 2, 5, 50, 0])
def test_chunks_take_every_delta_once_and_change_no_report(suite: Suite, limit: int) -> None:
    """All reports equal the recount before, between some chunks and after."""
    site, events = FootfallSite(suite, "compaction"), made_up(571, visitors=3, events=14)
    site.send(batch_of(events[:7]))
    site.aggregate()
    site.send(batch_of(events[7:]))
    site.aggregate()
    deltas = state_of(site).unfolded_deltas
    assert deltas > 50
    token, compacted, chunks = "", 0, 0
    while True:
        chunk = chunk_of(site, limit, token)
        assert 0 < chunk.compacted_shards <= (limit or 10_000)
        compacted, token, chunks = compacted + chunk.compacted_shards, chunk.next_page_token, chunks + 1
        if chunks in (1, 7, 40):
            assert_recounts(site, events)
            assert state_of(site).unfolded_deltas == deltas - compacted
        if not token:
            break
    assert compacted == deltas
    assert state_of(site).unfolded_deltas == 0
    assert_recounts(site, events)
    assert chunk_of(site).compacted_shards == 0


@pytest.mark.parametrize("at", [START, START + 5 * HOUR, START + 23 * HOUR, START - DAY, START + DAY])
def test_a_run_ends_though_aggregation_appends_as_much_as_each_chunk_takes(suite: Suite, at: int) -> None:
    """Before, at or behind the place where the chunks are: what is written after the first chunk is the next run's."""
    site, hour = FootfallSite(suite, "appended"), START + 5 * HOUR
    site.send(batch_of([view(number, hour + number * HOUR) for number in range(3)]))
    site.aggregate()
    token, chunks = "", 0
    while True:
        chunk = chunk_of(site, 1, token)
        token, chunks = chunk.next_page_token, chunks + 1
        if not token:
            break
        assert chunks < 200, "it does not come to an end"
        site.send(batch_of([view(100 + chunks, at)]))
        site.aggregate()
    assert compact(site) > 0
    assert site.overview(START - DAY, START + 2 * DAY).events == 3 + chunks - 1


def test_a_day_of_a_dimension_is_compacted_by_one_chunk_at_a_time(suite: Suite, hands: Hands) -> None:
    """Another chunk, which goes on in a later hour of the same day, passes over it while the first has not ended: both
    would read the day's row as it was before and one would be lost."""
    site, hour = FootfallSite(suite, "beside"), START + 5 * HOUR
    events = [view(1, hour), view(2, hour + HOUR)]
    site.send(batch_of(events))
    site.aggregate()
    site_id, db = hands.site_id(site), Database(suite.database_url, application="test")
    with hands.connection.transaction(), db.connection() as other:
        first = product.compact(hands.connection, site_id, LATER, 1)
        beside = product.compact(other, site_id, LATER, 1, first.position)
    db.close()
    assert (first.done.deltas, beside.done.deltas) == (1, 1)
    assert first.position[1] < beside.position[1]
    compact(site)
    assert_recounts(site, events)


def test_a_chunk_takes_every_dimension_and_day_of_a_small_site(suite: Suite, hands: Hands) -> None:
    """In one transaction, for most sites have few deltas of each."""
    site, events = FootfallSite(suite, "small"), [view(number, START + number * DAY) for number in range(3)]
    site.send(batch_of(events))
    site.aggregate()
    deltas = state_of(site).unfolded_deltas
    chunk = product.compact(hands.connection, hands.site_id(site), LATER, deltas + 1)
    assert (chunk.done.deltas, chunk.has_more) == (deltas, False)
    assert_recounts(site, events)


def test_a_chunk_locks_a_bounded_number_of_days(suite: Suite, hands: Hands) -> None:
    """However many it could take: the locks of all transactions share one table."""
    site = FootfallSite(suite, "long")
    site.send(batch_of([view(number, START - number * DAY) for number in range(120)]))
    site.aggregate()
    deltas = state_of(site).unfolded_deltas
    with hands.connection.transaction():
        chunk = product.compact(hands.connection, hands.site_id(site), LATER, deltas)
        (locks,) = hands.connection.execute(_LOCKS).fetchone() or (0,)
    # And one of the site.
    assert locks == 100 + 1
    assert chunk.has_more
    assert compact(site) == deltas - chunk.done.deltas


def test_a_chunk_passes_over_the_days_that_another_one_holds(suite: Suite, hands: Hands) -> None:
    """And takes all others, before and after. There is more, for the holder may leave some."""
    at = (START - DAY, START, START + HOUR, START + DAY)
    site, events = FootfallSite(suite, "held"), [view(number, start) for number, start in enumerate(at)]
    site.send(batch_of(events))
    site.aggregate()
    deltas = state_of(site).unfolded_deltas
    site_id, db = hands.site_id(site), Database(suite.database_url, application="test")
    with hands.connection.transaction(), db.connection() as other:
        held = product.compact(hands.connection, site_id, LATER, 1, (2**31 - 1, 0, instant(START)))
        beside = product.compact(other, site_id, LATER, deltas)
        in_vain = product.compact(other, site_id, LATER, deltas, beside.position)
    db.close()
    # The held day has two deltas, one in each of its hours.
    assert (held.done.deltas, beside.done.deltas, in_vain.done.deltas) == (1, deltas - 2, 0)
    assert (beside.has_more, beside.position[1:], in_vain.has_more) == (True, (0, instant(START)), False)
    assert compact(site) == 1
    assert_recounts(site, events)


def test_a_token_goes_only_with_its_site_and_interval(suite: Suite) -> None:
    """Negative limits and unknown intervals are refused; hours and days are compacted together under any name."""
    site, other = FootfallSite(suite, "tokens"), FootfallSite(suite, "tokens")
    site.send(batch_of(made_up(572, visitors=2, events=6)))
    site.aggregate()
    token = chunk_of(site, 1, interval=1).next_page_token
    refused = invalid("PAGE_TOKEN_INVALID", "page_token")
    assert refusal_of(chunk_of, other, 1, token, 1) == refused
    assert refusal_of(chunk_of, site, 1, token, 2) == refused
    assert refusal_of(chunk_of, site, 1, token) == refused
    assert chunk_of(site, 1, token, 1).has_more
    assert refusal_of(chunk_of, site, -1) == invalid("VALUE_OUT_OF_RANGE", "limit")
    assert refusal_of(chunk_of, site, interval=9) == invalid("VALUE_UNKNOWN", "interval")
    assert not chunk_of(site, 2**31 - 1, interval=2).has_more or compact(site) > 0
    assert state_of(site).unfolded_deltas == 0


def test_a_chunk_asked_for_again_after_a_lost_answer_does_no_harm(suite: Suite) -> None:
    """The same token twice: the second call takes what comes after."""
    site, events = FootfallSite(suite, "again"), made_up(573, visitors=3, events=20)
    site.send(batch_of(events))
    site.aggregate()
    deltas = state_of(site).unfolded_deltas
    first = chunk_of(site, 5)
    token = first.next_page_token
    again = [chunk_of(site, 5, token).compacted_shards for _ in range(2)]
    assert all(again)
    assert compact(site) + sum(again) + first.compacted_shards == deltas
    assert_recounts(site, events)
