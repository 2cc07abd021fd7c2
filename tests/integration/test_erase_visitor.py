"""EraseVisitor: nothing names the visitor any more, and no count changes."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from footfall.admin.v1 import admin_pb2

from admin_svc.counting import compact
from tests.oracle.recount import Recount
from tests.support.erasing import ALWAYS, assert_counts, assert_nothing_names, erase, erase_all, named, removed
from tests.support.footfall_site import FootfallSite
from tests.support.refusals import batch, event, invalid, refusal_of
from tests.support.site_rows import rows_of, site_id_of
from tests.support.suite import Suite
from tests.support.traffic import SESSION_TIMEOUT, batch_of, made_up


@pytest.mark.parametrize("limit", [1, 7, 0])
def test_nothing_names_the_visitor_and_no_count_changes(
    suite: Suite, database: psycopg.Connection[Any], limit: int
) -> None:
    """Whatever the size of a chunk; and nothing of another site changes."""
    site, other = FootfallSite(suite, "erase", rollup_shard_count=2), FootfallSite(suite, "erase")
    events = named(1, visitors=4, events=160)
    for one in (site, other):
        one.send(batch_of(events if one is site else made_up(1, visitors=4, events=160)))
        one.aggregate()
    site_id, other_id = site_id_of(database, site), site_id_of(database, other)
    for _ in range(8):
        compact.compact(database, site_id, datetime.now(UTC), 40)
    others = rows_of(database, other_id)
    rollups = rows_of(database, site_id)["rollup_shards"]

    gone = events[0].visitor_id
    own, kept = [e for e in events if e.visitor_id == gone], [e for e in events if e.visitor_id != gone]
    chunks = erase_all(site, limit, visitor_id=gone)
    assert removed(chunks) == (len(own), len(Recount(own, SESSION_TIMEOUT).all_sessions), 1)
    assert all(chunk.events + chunk.sessions + chunk.visitors <= (limit or 5_000) for chunk in chunks)
    assert_nothing_names(database, site, {gone, *(e.user_id for e in own if e.user_id)}, kept)
    assert rows_of(database, site_id)["rollup_shards"] == rollups
    assert_counts(site, events)
    assert rows_of(database, other_id) == others
    assert erase_all(site, visitor_id=gone) == [admin_pb2.EraseVisitorResponse()]


def test_a_user_leaves_with_every_visitor_pending_and_failed_events_too(
    suite: Suite, database: psycopg.Connection[Any]
) -> None:
    """Visitors that only pending events know of are found; what is pending is aggregated before it goes."""
    site = FootfallSite(suite, "erase")
    user = f"<user {uuid4().hex[:8]}>"
    events = named(2, visitors=6, events=200)
    names = sorted({event.visitor_id for event in events})
    linked = set(names[:3])
    events = [
        replace(event, user_id=(user if event.visitor_id in linked else "<someone else>") if event.user_id else "")
        for event in events
    ]
    # One visitor is not seen in what is aggregated before.
    early = [event for event in events[:120] if event.visitor_id != names[0]]
    late = [event for event in events if event not in early]
    site.send(batch_of(early))
    site.aggregate()
    site.send(batch_of(late[:-1]))
    site.aggregate()
    # An event that has failed.
    [failed] = [replace(late[-1], visitor_id=names[0], event_id=str(uuid4()))]
    site.send(batch_of([failed]))
    site_id = site_id_of(database, site)
    database.execute(
        "INSERT INTO failed_events (site_id, batch_id, ord, partition, attempts, received_at, failed_at, error) "
        "SELECT site_id, batch_id, first_ord, partition, 3, now(), now(), %s FROM pending_batches WHERE site_id = %s",
        (f"of {names[0]}", site_id),
    )
    database.execute("DELETE FROM pending_batches WHERE site_id = %s", (site_id,))
    pending = replace(late[-1], visitor_id=f"{names[0]} elsewhere", type="identify", name="", user_id=user)
    site.send(batch_of([pending]))

    own = {event.visitor_id for event in [*early, *late[:-1]] if event.user_id == user} | {pending.visitor_id}
    aggregated = [*early, *late[:-1], pending]
    kept = [event for event in aggregated if event.visitor_id not in own]
    chunks = erase_all(site, 20, user_id=user)
    assert removed(chunks)[0] == len(aggregated) - len(kept) + 1
    assert removed(chunks)[2] == len(own)
    assert_nothing_names(database, site, {user, *own}, kept)
    assert rows_of(database, site_id)["failed_events"] == []
    assert_counts(site, aggregated)


def test_who_waits_for_an_attempt_or_was_only_sent_is_erased(suite: Suite, database: psycopg.Connection[Any]) -> None:
    """A single event that backs off is pending and not due: it goes from the queue."""
    site = FootfallSite(suite, "erase")
    site_id = site_id_of(database, site)
    for visitor in ("<waits>", "<stays>"):
        site.send(batch(event(visitor_id=visitor, path="/")))
    database.execute("UPDATE pending_batches SET not_before = '2100-01-01' WHERE site_id = %s", (site_id,))
    assert erase_all(site, visitor_id="<waits>") == [admin_pb2.EraseVisitorResponse(events=1)]
    assert [one.visitor_id for one in site.events()] == ["<stays>"]
    assert len(rows_of(database, site_id)["pending_batches"]) == 1


def test_a_claimed_chunk_of_which_no_event_is_left_is_done(suite: Suite, database: psycopg.Connection[Any]) -> None:
    """A pending batch may have lost any of its events."""
    site = FootfallSite(suite, "erase")
    site_id = site_id_of(database, site)
    for visitor in ("a", "b"):
        site.send(batch(*(event(visitor_id=visitor) for _ in range(3))))
    database.execute(
        "DELETE FROM events WHERE site_id = %s AND (visitor_id = 'a' OR ord = 1)",
        (site_id,),
    )
    site.aggregate(1)
    assert rows_of(database, site_id)["pending_batches"] == []
    assert site.overview(*ALWAYS).events == 2


def test_nobody_known_is_no_error_and_a_senseless_request_is(suite: Suite) -> None:
    site = FootfallSite(suite, "erase")
    nothing = admin_pb2.EraseVisitorResponse()
    assert erase(site, visitor_id="nobody") == erase(site, user_id="nobody") == nothing
    assert refusal_of(erase, site) == invalid("FIELD_REQUIRED", "visitor_id")
    assert refusal_of(erase, site, user_id="") == invalid("FIELD_REQUIRED", "user_id")
    assert refusal_of(erase, site, visitor_id="a\0") == invalid("TEXT_HAS_NUL", "visitor_id")
    assert refusal_of(erase, site, -1, visitor_id="a") == invalid("VALUE_OUT_OF_RANGE", "limit")


def test_a_token_goes_only_with_its_own_request(suite: Suite) -> None:
    site, other = FootfallSite(suite, "erase"), FootfallSite(suite, "erase")
    site.send(batch(event(visitor_id="a"), event(visitor_id="a")))
    token = erase(site, 1, visitor_id="a").next_page_token
    assert token
    refused = invalid("PAGE_TOKEN_INVALID", "page_token")
    assert refusal_of(erase, site, 1, token, visitor_id="b") == refused
    assert refusal_of(erase, site, 1, token, user_id="a") == refused
    assert refusal_of(erase, other, 1, token, visitor_id="a") == refused
    assert refusal_of(erase, site, 1, token + "x", visitor_id="a") == refused
    assert erase(site, 1, token, visitor_id="a").events == 1


@pytest.mark.parametrize("chunks", [1, 3, 10])
def test_an_interrupted_erasure_is_started_again(suite: Suite, database: psycopg.Connection[Any], chunks: int) -> None:
    """Without its token; a chunk whose answer was lost may also be asked for twice."""
    site = FootfallSite(suite, "erase")
    events = named(3, visitors=2, events=60)
    site.send(batch_of(events))
    gone = events[0].visitor_id
    token = ""
    for _ in range(chunks):
        last, token = token, erase(site, 2, token, visitor_id=gone).next_page_token
    erase(site, 2, last, visitor_id=gone)
    erase_all(site, 3, visitor_id=gone)
    assert_nothing_names(database, site, {gone}, [e for e in events if e.visitor_id != gone])
    assert_counts(site, events)


def test_who_comes_back_is_a_new_visitor(suite: Suite) -> None:
    site = FootfallSite(suite, "erase")
    site.send(batch(event(visitor_id="back"), event(visitor_id="other")))
    site.aggregate()
    erase_all(site, visitor_id="back")
    assert site.overview(*ALWAYS).visitors == 2
    site.send(batch(event(visitor_id="back")))
    site.aggregate()
    after = site.overview(*ALWAYS)
    assert (after.visitors, after.new_visitors, after.sessions) == (3, 3, 3)
    assert sorted(row.visitor_id for row in site.session_rows()) == ["back", "other"]
