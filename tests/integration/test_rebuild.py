"""`footfall rebuild` makes a site's derived rows again from its raw events, whatever has become of them."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from footfall.admin.v1 import admin_pb2
from google.protobuf import duration_pb2, field_mask_pb2

from admin_svc.chunk import Chunk
from admin_svc.counting.aggregate import Aggregated, Aggregator
from admin_svc.maintenance import rebuild
from tests.oracle.raw_events import DAY, HOUR, MINUTE, SECOND
from tests.oracle.recount import Recount
from tests.oracle.tables import expected_tables
from tests.support.commands import footfall
from tests.support.hands import LATER, Hands
from tests.support.rebuilding import in_phase, instant_of, rebuild_chunk, rebuilt, sent
from tests.support.retention import clean_up
from tests.support.traffic import SESSION_TIMEOUT, assert_recounts, batch_of, made_up, metadata_of
from tests.support.upkeep import compact

DAMAGE = {
    "rollups": "UPDATE rollup_shards SET events = events + 1, sessions = sessions * 2 WHERE site_id = %(site_id)s",
    "lost rollups": "DELETE FROM rollup_shards WHERE site_id = %(site_id)s AND (delta_no > 0 OR dimension < 3)",
    "sets of visitors": "UPDATE rollup_shards SET visitors = NULL WHERE site_id = %(site_id)s",
    "sessions": "UPDATE sessions SET ended_at = ended_at + '1 s', pageviews = 0, exit_page = 'x', new_visitor = true "
    "WHERE site_id = %(site_id)s",
    "lost sessions": "DELETE FROM sessions WHERE site_id = %(site_id)s AND visitor_no %% 2 = 0",
    "visitors": "UPDATE visitors SET first_seen_at = first_seen_at - '1 day'::interval, user_id = 'x', last_touch = "
    "'{}' WHERE site_id = %(site_id)s",
    "lost visitors": "DELETE FROM visitors WHERE site_id = %(site_id)s AND visitor_no %% 2 = 0",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_was_damaged_is_whole_again(hands: Hands, damage: str) -> None:
    """The command ends, verify is clean, and tables and answers are the recount's; before, verify was not."""
    events = made_up(11, visitors=9, events=300)
    site = sent(hands, "rebuild", events)
    assert hands.connection.execute(DAMAGE[damage], {"site_id": hands.site_id(site)}).rowcount > 0
    code, output = footfall(hands.suite, "verify", "--site", site.slug)
    assert code == 1, output
    code, output = footfall(hands.suite, "rebuild", "--site", site.slug, "--limit", "70")
    assert code == 0, output
    assert "300 events queued again" in output
    code, output = footfall(hands.suite, "verify", "--site", site.slug)
    assert code == 0, output
    assert hands.tables(site) == expected_tables(Recount(events, SESSION_TIMEOUT))
    compact(site)
    assert_recounts(site, events)


def test_every_chunk_keeps_to_its_limit_and_says_what_is_left(hands: Hands) -> None:
    """A limit of one row or event of a batch; queued, cleared and aggregated add up."""
    events = made_up(12, visitors=4, events=30)
    site = sent(hands, "rebuild-pages", events)
    chunks = rebuilt(site, limit=1)
    assert sum(chunk.queued for chunk in chunks) == sum(chunk.aggregated for chunk in chunks) == len(events)
    assert all(chunk.cleared <= 1 for chunk in chunks)
    assert [chunk.remaining for chunk in chunks if chunk.queued] == sorted(
        chunk.remaining for chunk in chunks if chunk.queued
    )
    assert chunks[-1].remaining == 0
    assert_recounts(site, events)


def test_a_token_of_a_finished_rebuild_starts_nothing(hands: Hands) -> None:
    """Nor does that of one that somebody began anew meanwhile; without a token a rebuild begins."""
    site = sent(hands, "rebuild-token", made_up(13, visitors=4, events=40))
    token = rebuild_chunk(site).next_page_token
    while rebuild_chunk(site, token).has_more:
        pass
    before = hands.rows(site, "rollup_shards"), hands.rows(site, "visitors"), hands.rows(site, "rebuilds")
    for _ in range(2):
        chunk = rebuild_chunk(site, token)
        assert (chunk.queued, chunk.cleared, chunk.aggregated, chunk.has_more) == (0, 0, 0, False)
    assert (hands.rows(site, "rollup_shards"), hands.rows(site, "visitors"), hands.rows(site, "rebuilds")) == before
    assert rebuild_chunk(site, limit=1).queued > 0
    chunk = rebuild_chunk(site, token)
    assert (chunk.queued, chunk.cleared, chunk.aggregated, chunk.has_more) == (0, 0, 0, False)
    rebuilt(site)


def test_two_callers_at_once_do_one_rebuild(hands: Hands) -> None:
    """Both end, each event is queued once, and the numbers are the recount's."""
    events = made_up(14, visitors=9, events=400)
    site = sent(hands, "rebuild-two", events, partitions=4)
    first = rebuild_chunk(site, limit=20)

    def call() -> tuple[int, int]:
        token, queued, aggregated_again = first.next_page_token, 0, 0
        while token:
            chunk = rebuild_chunk(site, token, limit=20)
            token, queued = chunk.next_page_token, queued + chunk.queued
            aggregated_again += chunk.aggregated
        return queued, aggregated_again

    with ThreadPoolExecutor(2) as threads:
        done = [one.result() for one in [threads.submit(call) for _ in range(2)]]
    assert first.queued + sum(queued for queued, _ in done) == len(events)
    assert sum(again for _, again in done) == len(events)
    assert hands.tables(site) == expected_tables(Recount(events, SESSION_TIMEOUT))
    assert_recounts(site, events)


def test_another_site_is_untouched(hands: Hands) -> None:
    """Not a row of the other site is written, which has the same events and visitors."""
    events = made_up(15, visitors=5, events=80)
    site, other = sent(hands, "rebuild-mine", events), sent(hands, "rebuild-other", events)
    other.send(batch_of(made_up(16, visitors=5, events=10)))
    tables = ("events", "pending_batches", "visitors", "sessions", "rollup_shards", "rebuilds", "sites")
    before = [hands.rows(other, table) for table in tables]
    rebuilt(site, limit=30)
    assert [hands.rows(other, table) for table in tables] == before


def test_a_new_session_timeout_holds_for_what_was_before(hands: Hands) -> None:
    """Until then for new events only."""
    events = made_up(17, visitors=8, events=300)
    site = sent(hands, "rebuild-timeout", events)
    for timeout in (5 * MINUTE - 1, 3 * HOUR):
        settings = admin_pb2.SiteSettings(
            session_timeout=duration_pb2.Duration(seconds=timeout // SECOND, nanos=timeout % SECOND * 1000)
        )
        request = admin_pb2.UpdateSiteRequest(
            site=admin_pb2.Site(slug=site.slug, settings=settings),
            update_mask=field_mask_pb2.FieldMask(paths=["settings.session_timeout"]),
        )
        site.operator.UpdateSite(request, metadata=site.as_admin)
        assert hands.tables(site) != expected_tables(Recount(events, timeout))
        rebuilt(site)
        assert hands.tables(site) == expected_tables(Recount(events, timeout))
        assert footfall(hands.suite, "verify", "--site", site.slug)[0] == 0


def test_batches_that_come_in_meanwhile_do_not_keep_it_from_ending(hands: Hands) -> None:
    """One comes in before every chunk of one batch; nothing of them is aggregated before the rebuild's own are."""
    events, arriving = made_up(18, visitors=5, events=40), made_up(19, visitors=5, events=60)
    site = sent(hands, "rebuild-arrivals", events)
    batches = len(hands.connection.execute(
        "SELECT DISTINCT batch_id FROM events WHERE site_id = %s", (hands.site_id(site),)
    ).fetchall())  # fmt: skip
    site.send(batch_of(arriving[:1]))
    number, queueing = hands.rebuild_chunk(site, limit=1).position[0], 1
    late = iter(arriving[1:])
    while in_phase(hands, site, 1):
        site.send(batch_of([next(late)]))
        hands.rebuild_chunk(site, number, limit=1)
        queueing += 1
    # Its own batches, the one that was pending at first, and the chunk that finds no more.
    assert queueing <= batches + 2
    left = list(late)
    while hands.rebuild_chunk(site, number, limit=5).has_more:
        pass
    site.aggregate()
    assert_recounts(site, events + [event for event in arriving if event not in left])


def test_only_what_was_aggregated_is_pending_meanwhile(hands: Hands) -> None:
    """Events that have gone, fallen out or not been aggregated yet are not queued, so that pending_events is right."""
    events = made_up(20, visitors=5, events=90)
    site = sent(hands, "rebuild-holes", events, partitions=1)
    gone = sorted(event.occurred_at for event in events)[30]
    clean_up(hands.connection, hands.site_id(site), instant_of(gone))
    midnight = (gone // DAY + 1) * DAY
    site.send(batch_of(made_up(21, visitors=2, events=7)))
    aggregated_again = sum(event.occurred_at >= midnight for event in events)
    chunk = hands.rebuild_chunk(site)
    assert chunk.done.queued == rebuild.replays_left(hands.connection, hands.site_id(site)) == aggregated_again
    assert metadata_of(site).pending_events == aggregated_again + 7
    while hands.rebuild_chunk(site, *chunk.position).has_more:
        pass
    assert metadata_of(site).pending_events == 7


def test_the_end_of_one_rebuild_is_not_that_of_the_next(hands: Hands) -> None:
    """A caller who aggregated the last replay may be overtaken by others, who end the rebuild and begin another."""
    events = made_up(22, visitors=5, events=40)
    site = sent(hands, "rebuild-overtaken", events)
    [number] = hands.rebuild_chunk(site).position
    while not in_phase(hands, site, 3):
        hands.rebuild_chunk(site, number)

    class Overtaken(Aggregator):
        """Others go on between its chunk and what the caller does next."""

        def aggregate(self, *arguments: Any, **options: Any) -> Chunk[Aggregated]:
            chunk = super().aggregate(*arguments, **options)
            while hands.rebuild_chunk(site, number).has_more:
                pass
            begun.extend(hands.rebuild_chunk(site).position)
            hands.connection.execute("DELETE FROM pending_batches WHERE site_id = %s", (hands.site_id(site),))
            return chunk

    begun: list[int] = []
    rebuild.rebuild(hands.connection, Overtaken(hands.numbers), hands.site_id(site), LATER, 1_000, (number,))
    assert in_phase(hands, site, 1)
    assert begun != [number]
