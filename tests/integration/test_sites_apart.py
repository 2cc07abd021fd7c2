"""A site whose rows are locked, or whose data is wrong, fails and delays no other site's calls."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from footfall.ingest.v1 import ingest_pb2
from footfall.type.v1 import event_pb2

from common.clock import system_clock
from common.connection import UNLIMITED
from common.db import Database
from common.errors import CallError, Reason
from common.migrate import migrate
from common.sites import DELETING, Site, find_site
from ingest_svc.database_commit import DatabaseCommit
from ingest_svc.event_rows import to_rows
from ingest_svc.group_commit import LOCKED_SECONDS, WORTH_ANOTHER, GroupCommit
from ingest_svc.store_events import Incoming
from tests.support.site_rows import make_site
from tests.support.suite import database_on

LOUD, QUIET = "loud", "quiet"
SECONDS = 30.0
"""How long a test waits for what must come. None waits so long when all is well."""

_RESERVE = "INSERT INTO ingest_dedupes (site_id, dedupe_key, expires_at) VALUES (%s, %s, %s)"


@dataclass
class Stage:
    """Two sites, a group commit of two threads, and the groups that these were given, by slug and in order."""

    db: Database
    sites: dict[str, Site]
    now: float = 0.0
    """The clock of the group commit, in s."""
    groups: list[list[str]] = field(default_factory=list)
    opened: threading.Event = field(default_factory=threading.Event)

    def call(self, slug: str, *event_ids: str) -> Incoming:
        events = [
            ingest_pb2.Event(type=event_pb2.EVENT_TYPE_PAGEVIEW, visitor_id="v", event_id=event_id)
            for event_id in event_ids
        ]
        now = datetime.now(UTC)
        rows, _ = to_rows(ingest_pb2.IngestBatchRequest(events=events), self.sites[slug], now)
        return Incoming(self.sites[slug], rows, now)

    def run(self, act: Callable[[GroupCommit], Awaitable[None]], threads: int = 2) -> None:
        """Runs `act` with a group commit whose threads wait until `opened` is set."""
        commits = [DatabaseCommit(self.db, system_clock) for _ in range(threads)]

        def held(commit: DatabaseCommit) -> Callable[[list[Incoming]], list[int]]:
            def store(calls: list[Incoming]) -> list[int]:
                self.groups.append([call.site.slug for call in calls])
                assert self.opened.wait(SECONDS)
                return commit(calls)

            return store

        async def main() -> None:
            group_commit = GroupCommit([held(commit) for commit in commits], 100_000, 2**30, lambda: self.now)
            await act(group_commit)
            await group_commit.close()

        asyncio.run(asyncio.wait_for(main(), SECONDS))
        for commit in commits:
            commit.close()

    @contextmanager
    def held_key(self, call: Incoming) -> Iterator[psycopg.Connection[Any]]:
        """Holds the key of the call's first event in an open transaction, as a frozen ingest process does."""
        with self.db.connect() as holder:
            holder.autocommit = False
            key = call.rows[0].dedupe_key
            assert key is not None
            holder.execute(_RESERVE, (call.site.site_id, key.hex(), datetime.now(UTC) + timedelta(days=1)))
            yield holder
            holder.rollback()


@pytest.fixture
def stage(postgres_url: str) -> Iterator[Stage]:
    with database_on(postgres_url) as url:
        # Connections that wait for a lock without end, so that a test fails where ingest sets no bound of its own.
        db = Database(url, application="test", limits=UNLIMITED)
        migrate(db)
        with db.transaction() as connection:
            for slug in (LOUD, QUIET):
                make_site(connection, slug)
            sites = {slug: find_site(connection, slug) for slug in (LOUD, QUIET)}
        yield Stage(db, sites)
        db.close()


async def in_one_group(stage: Stage, group_commit: GroupCommit, *calls: Incoming) -> "list[asyncio.Future[int]]":
    """Enqueues the calls behind one that is being stored, so that they become one group."""
    first = group_commit.enqueue(stage.call(QUIET, "first"))
    while not stage.groups:
        await asyncio.sleep(0)
    futures = [group_commit.enqueue(call) for call in calls]
    stage.opened.set()
    assert await first == 1
    return futures


@pytest.mark.parametrize("holder_commits", [True, False])
def test_a_key_that_another_transaction_holds_delays_its_own_site_only(stage: Stage, holder_commits: bool) -> None:
    """It is then a duplicate or stored, as that transaction ends."""

    async def act(group_commit: GroupCommit) -> None:
        locked = stage.call(LOUD, "held")
        with stage.held_key(locked) as holder:
            loud, quiet = await in_one_group(stage, group_commit, locked, stage.call(QUIET, "a", "b"))
            assert await quiet == 2
            assert not loud.done()
            assert await group_commit.enqueue(stage.call(QUIET, "c")) == 1
            assert not loud.done()
            (holder.commit if holder_commits else holder.rollback)()
            assert await loud == (0 if holder_commits else 1)
        assert await group_commit.enqueue(stage.call(LOUD, "after")) == 1

    stage.run(act)
    assert [LOUD, QUIET] in stage.groups


@pytest.mark.parametrize("threads", [1, 2])
def test_a_flood_of_a_locked_site_does_not_take_every_thread(stage: Stage, threads: int) -> None:
    async def act(group_commit: GroupCommit) -> None:
        calls = [stage.call(LOUD, "held", *(f"{number}-{one}" for one in range(WORTH_ANOTHER))) for number in range(30)]
        with stage.held_key(calls[0]) as holder:
            stage.opened.set()
            loud = [group_commit.enqueue(call) for call in calls]
            for number in range(20):
                assert await group_commit.enqueue(stage.call(QUIET, f"quiet {number}")) == 1
            assert not any(future.done() for future in loud)
            holder.rollback()
        assert sum([await future for future in loud]) == 30 * WORTH_ANOTHER + 1

    stage.run(act, threads)


def test_a_call_is_given_up_when_its_keys_stay_locked_and_the_next_is_stored(stage: Stage) -> None:
    async def act(group_commit: GroupCommit) -> None:
        locked = stage.call(LOUD, "held")
        with stage.held_key(locked):
            loud, quiet = await in_one_group(stage, group_commit, locked, stage.call(QUIET, "a"))
            assert await quiet == 1
            while stage.groups.count([LOUD]) < 2:
                await asyncio.sleep(0.01)
            assert not loud.done()
            stage.now += LOCKED_SECONDS
            with pytest.raises(psycopg.errors.LockNotAvailable):
                await loud
        assert await group_commit.enqueue(locked) == 1

    stage.run(act)


def test_a_site_being_deleted_costs_the_others_one_transaction(stage: Stage) -> None:
    with stage.db.transaction() as connection:
        connection.execute("UPDATE sites SET status = %s WHERE slug = %s", (DELETING, LOUD))

    async def act(group_commit: GroupCommit) -> None:
        calls = [stage.call((LOUD, QUIET)[number % 2], f"{number}") for number in range(40)]
        futures = await in_one_group(stage, group_commit, *calls)
        for number, future in enumerate(futures):
            if number % 2:
                assert await future == 1
            else:
                with pytest.raises(CallError) as refused:
                    await future
                assert refused.value.reason == Reason.SITE_DISABLED

    stage.run(act)
    assert [len(group) for group in stage.groups] == [1, 40, 20]


def test_bad_data_of_one_call_costs_the_other_sites_one_transaction(stage: Stage) -> None:
    async def act(group_commit: GroupCommit) -> None:
        calls = [stage.call((LOUD, QUIET)[number % 2], f"{number}") for number in range(10)]
        bad = calls[4].rows[0]
        calls[4].rows[0] = bad._replace(fields=bad.fields + b"one column too many")
        futures = await in_one_group(stage, group_commit, *calls)
        outcomes = await asyncio.gather(*futures, return_exceptions=True)
        assert isinstance(outcomes.pop(4), psycopg.DataError)
        assert outcomes == [1] * 9

    stage.run(act)
    assert stage.groups.count([QUIET] * 5) == 1
    assert stage.groups.count([QUIET]) == 1


def test_of_several_locked_sites_each_is_found(stage: Stage) -> None:
    """The one that the database named first is not taken for another."""

    async def act(group_commit: GroupCommit) -> None:
        loud, quiet = stage.call(LOUD, "held"), stage.call(QUIET, "held")
        with stage.held_key(loud) as one, stage.held_key(quiet) as other:
            futures = await in_one_group(stage, group_commit, loud, quiet)
            while not {(LOUD,), (QUIET,)} <= {tuple(group) for group in stage.groups[1:]}:
                await asyncio.sleep(0.01)
            other.rollback()
            assert await futures[1] == 1
            assert not futures[0].done()
            one.rollback()
            assert await futures[0] == 1

    stage.run(act)


def test_the_site_that_is_locked_is_stored_apart_and_the_other_comes_next(stage: Stage) -> None:
    """Also where the other's keys were reserved before the wait."""
    assert stage.sites[LOUD].site_id < stage.sites[QUIET].site_id

    async def act(group_commit: GroupCommit) -> None:
        held = stage.call(QUIET, "held")
        with stage.held_key(held) as holder:
            free, locked = await in_one_group(stage, group_commit, stage.call(LOUD, "free"), held)
            assert await free == 1
            holder.rollback()
        assert await locked == 1

    stage.run(act, threads=1)
    assert stage.groups[1:3] == [[LOUD, QUIET], [LOUD]]


_WAITS_LONG = """
SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()
               AND clock_timestamp() - query_start > interval '300 ms')
"""


def test_a_lock_on_a_whole_table_is_the_fault_of_no_site_and_waited_for(stage: Stage) -> None:
    """Such as a migration's. The bound of a wait for dedupe keys, 100 ms, is not that of a table."""

    async def act(group_commit: GroupCommit) -> None:
        stage.opened.set()
        with stage.db.connect() as holder, stage.db.connect() as watcher:
            with holder.transaction():
                holder.execute("LOCK TABLE events IN SHARE ROW EXCLUSIVE MODE")
                calls = [group_commit.enqueue(stage.call(slug, "a")) for slug in (LOUD, QUIET)]
                while not any(call.done() for call in calls):
                    row = await asyncio.to_thread(lambda: watcher.execute(_WAITS_LONG).fetchone())
                    if row == (True,):
                        break
            assert await asyncio.gather(*calls) == [1, 1]

    stage.run(act)
