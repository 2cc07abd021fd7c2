"""CleanupSite: one budget over all kinds of rows, honest about what is left, and all or nothing."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from itertools import accumulate, count
from typing import Any

import grpc
import psycopg
import pytest

from admin_svc.maintenance import cleanup as product
from common.sites import find_site
from tests.oracle.raw_events import DAY, SECOND
from tests.support.cuts import Scissors, cut_everywhere
from tests.support.footfall_site import FootfallSite
from tests.support.rebuilding import rebuild_chunk
from tests.support.refusals import Refusal, invalid, refusal_of
from tests.support.site_rows import site_id_of
from tests.support.suite import Suite
from tests.support.traffic import START, batch_of, made_up
from tests.support.upkeep import (
    KINDS,
    added,
    cleanup,
    cleanup_chunk,
    cleanup_chunks,
    compact,
    counts_of,
    everything,
    instant,
    keep_all,
    sizes,
)

LATER = START + 400 * DAY
"""By then all that the traffic left has expired."""

Connection = psycopg.Connection[Any]
_seeds = count(500)


def expired_site(suite: Suite, *, visitors: int = 3, events: int = 12, prefix: str = "expired") -> FootfallSite:
    """A site with some of each kind, aggregated and compacted, all of it expired by LATER."""
    site = FootfallSite(suite, prefix)
    site.send(batch_of(made_up(next(_seeds), visitors=visitors, events=events)))
    site.aggregate()
    compact(site)
    keep_all(site, 30, 30, 30)
    return site


def greedy(budget: int, left: dict[str, int]) -> dict[str, int]:
    """How a budget is spent, kind after kind."""
    spent = {}
    for kind in KINDS:
        spent[kind] = min(budget, left[kind])
        budget -= spent[kind]
    return spent


def boundaries() -> Iterator[tuple[int, int]]:
    """(a kind, how far from its last row): on it, one before and one behind."""
    for kind in range(len(KINDS)):
        for beside in (-1, 0, 1):
            yield kind, beside


@pytest.mark.parametrize(("kind", "beside"), list(boundaries()))
def test_a_budget_that_ends_beside_the_last_row_of_a_kind_says_whether_there_is_more(
    suite: Suite, database: Connection, kind: int, beside: int
) -> None:
    """Spent exactly at a kind's last row, one before it or with exactly one of the next: what is left is told, is all
    that is left, and goes with the next chunk."""
    site = expired_site(suite)
    site_id = site_id_of(database, site)
    left = sizes(database, site_id)
    assert all(left.values())
    limit = list(accumulate(left.values()))[kind] + beside
    chunk = cleanup_chunk(site, LATER, limit=limit)
    assert counts_of(chunk) == greedy(limit, left)
    left = {name: left[name] - gone for name, gone in counts_of(chunk).items()}
    assert sizes(database, site_id) == left
    assert chunk.has_more == any(left.values())
    # One less than what is left leaves exactly one row.
    rest = sum(left.values())
    if rest > 1:
        chunk = cleanup_chunk(site, LATER, limit=rest - 1, token=chunk.next_page_token)
        assert chunk.has_more
        left = dict.fromkeys(KINDS, 0) | {"visitors": 1}
        assert sizes(database, site_id) == left
    chunk = cleanup_chunk(site, LATER, limit=1)
    assert counts_of(chunk) == left
    assert not chunk.has_more


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_has_more_exactly_when_another_call_would_delete_something(
    suite: Suite, database: Connection, limit: int
) -> None:
    """At every chunk, with the token or without: each deletes its whole budget but for the last one."""
    site = expired_site(suite, visitors=2, events=5)
    site_id = site_id_of(database, site)
    before = sum(sizes(database, site_id).values())
    chunks, has_more, token = 0, True, ""
    while has_more:
        chunk = cleanup_chunk(site, LATER, limit=limit, token=token if chunks % 2 else "")
        chunks, has_more, token = chunks + 1, chunk.has_more, chunk.next_page_token
        assert has_more == (sum(sizes(database, site_id).values()) > 0)
    assert chunks == -(-before // limit)
    assert sum(counts_of(cleanup_chunk(site, LATER, limit=limit)).values()) == 0


def test_two_callers_at_once_delete_each_row_once(suite: Suite, database: Connection) -> None:
    """Together they say what there was, kind by kind, and both come to their end."""
    site = expired_site(suite, visitors=5, events=60)
    site_id = site_id_of(database, site)
    before = sizes(database, site_id)
    with ThreadPoolExecutor() as pool:
        calls = [pool.submit(cleanup, site, LATER, limit=limit) for limit in (3, 5)]
        totals = [call.result() for call in calls]
    assert added(iter(totals)) == before
    assert not any(sizes(database, site_id).values())


def test_a_chunk_that_is_cut_off_anywhere_did_nothing_and_is_done_by_the_next_call(
    suite: Suite, database: Connection
) -> None:
    """The connection is ended after each of its statements: rows and floors are as before."""
    site = expired_site(suite, visitors=4, events=30)
    site_id = site_id_of(database, site)
    before = sizes(database, site_id)
    told: list[dict[str, int]] = []

    def chunk(limit: int, scissors: Scissors) -> None:
        with scissors.connection() as connection:
            found = product.delete_expired(connection, find_site(connection, site.slug).site_id, instant(LATER), limit)
            told.append(found.done._asdict())

    for limit in (before["events"] + 1, 10, 20_000):
        cut_everywhere(suite.database_url, partial(chunk, limit), lambda: everything(database, site_id))
    assert added(iter(told)) == before
    assert not any(sizes(database, site_id).values())


@pytest.mark.parametrize("limit", [1, 4, 0])
def test_a_dry_run_counts_what_the_run_after_it_deletes_and_changes_nothing(
    suite: Suite, database: Connection, limit: int
) -> None:
    """Kind by kind, visitors too, whose sessions go first; at any chunk size."""
    site = expired_site(suite, visitors=3, events=8, prefix="dry")
    site_id = site_id_of(database, site)
    before, had = everything(database, site_id), sizes(database, site_id)
    chunks = [counts_of(chunk) for chunk in cleanup_chunks(site, LATER, limit=limit, dry_run=True)]
    assert all(sum(chunk.values()) > 0 for chunk in chunks)
    assert everything(database, site_id) == before
    assert added(iter(chunks)) == had
    assert cleanup(site, LATER, limit=limit) == had
    assert cleanup(site, LATER, dry_run=True) == dict.fromkeys(KINDS, 0)


def test_a_dry_run_of_a_part_counts_that_part(suite: Suite, database: Connection) -> None:
    """In the midst of the traffic, where something of each kind stays."""
    site = expired_site(suite, visitors=12, events=150, prefix="dry-part")
    for days in range(30, 34):
        now = START + days * DAY + 12_345 * SECOND
        before = sizes(database, site_id_of(database, site))
        told = cleanup(site, now, limit=13, dry_run=True)
        assert cleanup(site, now, limit=17) == told
        after = sizes(database, site_id_of(database, site))
        assert {kind: before[kind] - after[kind] for kind in KINDS} == told
    assert after["visitors"] < 12


def test_other_sites_are_not_touched(suite: Suite, database: Connection) -> None:
    """Not a row, although all of theirs have expired too."""
    site, other = expired_site(suite), expired_site(suite)
    before = everything(database, site_id_of(database, other))
    cleanup(site, LATER)
    assert everything(database, site_id_of(database, other)) == before


def test_limits_are_made_good_or_refused(suite: Suite, database: Connection) -> None:
    """0 is the default, too large is coerced, negative is refused and changes nothing."""
    site = expired_site(suite)
    total = sum(sizes(database, site_id_of(database, site)).values())
    assert refusal_of(cleanup_chunk, site, LATER, limit=-1) == invalid("VALUE_OUT_OF_RANGE", "limit")
    assert sum(cleanup(site, LATER, dry_run=True).values()) == total
    chunk = cleanup_chunk(site, LATER, limit=2**31 - 1)
    assert sum(counts_of(chunk).values()) == total
    assert not chunk.has_more
    other = expired_site(suite)
    assert not cleanup_chunk(other, LATER, limit=0).has_more


def test_a_token_goes_only_with_its_own_request(suite: Suite) -> None:
    """Not with another site, another now, none, or the other dry_run."""
    site, other = expired_site(suite), expired_site(suite)
    wet = cleanup_chunk(site, LATER, limit=1).next_page_token
    dry = cleanup_chunk(site, LATER, limit=1, dry_run=True).next_page_token
    refused = invalid("PAGE_TOKEN_INVALID", "page_token")
    assert refusal_of(cleanup_chunk, other, LATER, token=wet) == refused
    assert refusal_of(cleanup_chunk, site, LATER + 1, token=wet) == refused
    assert refusal_of(cleanup_chunk, site, token=wet) == refused
    assert refusal_of(cleanup_chunk, site, LATER, token=dry) == refused
    assert refusal_of(cleanup_chunk, site, LATER, token=wet, dry_run=True) == refused
    assert refusal_of(cleanup_chunk, site, LATER, token=wet[:-2] + "xx") == refused
    assert cleanup_chunk(site, LATER, limit=1, token=wet).has_more
    assert cleanup_chunk(site, LATER, limit=1, token=dry, dry_run=True).has_more


def test_the_chunks_of_a_run_share_the_now_of_its_first(suite: Suite, database: Connection) -> None:
    """Without one it is the present when the run began: what expires meanwhile is left to the next run."""
    site = expired_site(suite)
    first = cleanup_chunk(site, limit=1)
    rest = cleanup_chunk(site, token=first.next_page_token)
    assert not rest.has_more
    assert not any(sizes(database, site_id_of(database, site)).values())


@pytest.mark.parametrize("now", [datetime(1, 1, 1, tzinfo=UTC), datetime(1969, 7, 20, tzinfo=UTC)])
def test_an_early_now_expires_nothing(suite: Suite, database: Connection, now: datetime) -> None:
    """Nor is it an error: retention counted back from it would lie before all time."""
    site = expired_site(suite)
    before = everything(database, site_id_of(database, site))
    keep_all(site, 36_500, 36_500, 365_000)
    micros = (now - datetime(1970, 1, 1, tzinfo=UTC)) // (instant(1) - instant(0))
    assert cleanup(site, micros) == dict.fromkeys(KINDS, 0)
    assert everything(database, site_id_of(database, site))[0] == before[0]


def test_a_site_under_rebuild_is_not_cleaned_up(suite: Suite) -> None:
    """It says that the site is busy, and when to come again; afterwards it goes on."""
    site = expired_site(suite)
    chunk = rebuild_chunk(site, limit=3)
    while chunk.has_more:
        busy = refusal_of(cleanup_chunk, site, LATER)
        assert busy == Refusal(grpc.StatusCode.UNAVAILABLE, "SITE_BUSY")
        chunk = rebuild_chunk(site, chunk.next_page_token, limit=3)
    assert sum(cleanup(site, LATER).values()) > 0


def test_a_rebuild_that_its_operator_left_is_over_when_all_is_aggregated(suite: Suite, database: Connection) -> None:
    """Aggregation counts what it queued; then the site is cleaned up though nobody asks RebuildSite again."""
    site = expired_site(suite)
    site_id = site_id_of(database, site)
    token = ""
    while True:
        token = rebuild_chunk(site, token, limit=3).next_page_token
        counting = "SELECT FROM rebuilds WHERE site_id = %s AND phase = 3"
        if database.execute(counting, (site_id,)).fetchone() is not None:
            break
    assert refusal_of(cleanup_chunk, site, LATER).reason == "SITE_BUSY"
    site.aggregate()
    assert cleanup(site, LATER)["events"] == 12


@pytest.mark.parametrize("days", [None, 30])
def test_a_run_looks_only_at_sites_that_have_something_to_delete(
    suite: Suite, database: Connection, days: int | None
) -> None:
    """While there is more of any kind, and no longer."""
    site, kept = expired_site(suite), expired_site(suite)
    keep_all(site, 30, 30, days)
    keep_all(kept, 3_000, 3_000, 3_000)
    site_id, kept_id = site_id_of(database, site), site_id_of(database, kept)
    assert site_id not in product.sites_to_clean_up(database, instant(START))
    more = True
    while more:
        found = product.sites_to_clean_up(database, instant(LATER))
        assert site_id in found
        assert kept_id not in found
        more = cleanup_chunk(site, LATER, limit=5).has_more
    assert site_id not in product.sites_to_clean_up(database, instant(LATER))
