"""Calls that wait share a transaction, and each hears only of its own events."""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TypeVar

import grpc
import psycopg
import pytest
from footfall.ingest.v1 import ingest_pb2
from footfall.type.v1 import event_pb2

from common.clock import system_clock
from common.db import Database
from common.errors import CallError, Reason
from common.migrate import migrate
from common.sites import DELETING, Site, find_site
from ingest_svc.database_commit import DatabaseCommit
from ingest_svc.event_rows import to_rows
from ingest_svc.group_commit import MAX_GROUP_EVENTS, WORTH_ANOTHER, Commit, GroupCommit
from ingest_svc.store_events import Incoming
from tests.support.site_rows import make_site
from tests.support.suite import database_on

Answer = TypeVar("Answer")
MANY_BYTES = 2**30


@dataclass
class Gate:
    """The real commit, behind a gate that the test opens; it writes down the groups it was given."""

    db: Database
    site: Site
    groups: list[list[Incoming]] = field(default_factory=list)
    entered: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._real = DatabaseCommit(self.db, system_clock)

    def commit(self, calls: list[Incoming]) -> list[int]:
        self.groups.append(calls)
        self.entered.set()
        assert self.opened.wait(30)
        return self._real(calls)

    def call(self, *event_ids: str) -> Incoming:
        """A call with an event of each id."""
        events = [
            ingest_pb2.Event(type=event_pb2.EVENT_TYPE_PAGEVIEW, visitor_id="v", event_id=event_id)
            for event_id in event_ids
        ]
        now = datetime.now(UTC)
        rows, errors = to_rows(ingest_pb2.IngestBatchRequest(events=events), self.site, now)
        assert errors == []
        return Incoming(self.site, rows, now)

    def stored(self) -> list[str]:
        """The ids of the stored events, in the order in which they were stored."""
        with self.db.connection() as connection:
            rows = connection.execute("SELECT event_id_text FROM events ORDER BY batch_id, ord")
            return [row[0] for row in rows]

    def pending(self) -> int:
        with self.db.connection() as connection:
            row = connection.execute("SELECT coalesce(sum(last_ord + 1), 0) FROM pending_batches").fetchone()
            assert row is not None
            return int(row[0])

    def behind_the_gate(
        self,
        act: Callable[[GroupCommit], Awaitable[Answer]],
        max_queue_events: int = 20_000,
        beside: Sequence[Commit] = (),
    ) -> Answer:
        """Runs `act` while the first call, "first", is held at the gate; the commits `beside` have none."""

        async def run() -> Answer:
            group_commit = GroupCommit([self.commit, *beside], max_queue_events, MANY_BYTES)
            first = group_commit.enqueue(self.call("first"))
            await asyncio.to_thread(self.entered.wait, 30)
            answer = await act(group_commit)
            self.opened.set()
            assert await first == 1
            await group_commit.close()
            return answer

        return asyncio.run(run())


@pytest.fixture
def gate(postgres_url: str) -> Iterator[Gate]:
    with database_on(postgres_url) as url:
        db = Database(url, application="test")
        migrate(db)
        with db.transaction() as connection:
            make_site(connection, "shop")
        with db.connection() as raw:
            yield Gate(db, find_site(raw, "shop"))
        db.close()


def submit(group_commit: GroupCommit, call: Incoming) -> "asyncio.Future[int]":
    return group_commit.enqueue(call)


def test_calls_that_wait_become_one_transaction_in_their_order(gate: Gate) -> None:
    """Of equal ids the first call's is accepted, also where both are in one group."""

    async def act(group_commit: GroupCommit) -> list["asyncio.Future[int]"]:
        calls = [gate.call("a", "b"), gate.call("b", "c", "c"), gate.call("first", "d")]
        tasks = [submit(group_commit, call) for call in calls]
        await asyncio.sleep(0)
        assert len(gate.groups) == 1
        assert not any(task.done() for task in tasks)
        gate.opened.set()
        await asyncio.gather(*tasks)
        return tasks

    tasks = gate.behind_the_gate(act)
    assert [task.result() for task in tasks] == [2, 1, 1]
    assert [len(group) for group in gate.groups] == [1, 3]
    assert gate.stored() == ["first", "a", "b", "c", "d"]
    assert gate.pending() == 5


def test_a_group_holds_a_bounded_number_of_events_and_a_larger_call_goes_alone(gate: Gate) -> None:
    async def act(group_commit: GroupCommit) -> list[int]:
        sizes = (MAX_GROUP_EVENTS - 1, 1, 1, MAX_GROUP_EVENTS + 1, 1)
        calls = [gate.call(*(f"{number}-{one}" for one in range(size))) for number, size in enumerate(sizes)]
        tasks = [submit(group_commit, call) for call in calls]
        await asyncio.sleep(0)
        gate.opened.set()
        return await asyncio.gather(*tasks)

    accepted = gate.behind_the_gate(act, max_queue_events=10 * MAX_GROUP_EVENTS)
    assert accepted == [MAX_GROUP_EVENTS - 1, 1, 1, MAX_GROUP_EVENTS + 1, 1]
    assert [len(group) for group in gate.groups] == [1, 2, 1, 1, 1]


def test_many_waiting_events_are_stored_beside_the_transaction_under_way(gate: Gate) -> None:
    """A few wait for it, so that they share the next one."""

    async def act(group_commit: GroupCommit) -> list[int]:
        calls = [gate.call(*(f"{number}" for number in range(WORTH_ANOTHER - 1))), gate.call("0", "last")]
        few = submit(group_commit, calls[0])
        for _ in range(3):
            await asyncio.sleep(0)
        assert beside.groups == []
        accepted = await asyncio.gather(few, submit(group_commit, calls[1]))
        assert not gate.opened.is_set()
        return [*accepted]

    beside = Gate(gate.db, gate.site)
    beside.opened.set()
    assert gate.behind_the_gate(act, beside=[beside.commit]) == [WORTH_ANOTHER - 1, 1]
    assert [len(group) for group in beside.groups] == [2]
    assert [len(group) for group in gate.groups] == [1]
    assert gate.pending() == WORTH_ANOTHER + 1


def test_a_call_whose_data_cannot_be_stored_fails_alone(gate: Gate) -> None:
    """Its neighbours in the transaction are stored once, and hear nothing of it."""

    async def act(group_commit: GroupCommit) -> list[int | BaseException]:
        bad = gate.call("bad")
        bad.rows[0] = bad.rows[0]._replace(fields=bad.rows[0].fields + b"one column too many")
        tasks = [submit(group_commit, call) for call in (gate.call("a"), bad, gate.call("b"))]
        await asyncio.sleep(0)
        gate.opened.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    one, bad, other = gate.behind_the_gate(act)
    assert (one, other) == (1, 1)
    assert isinstance(bad, psycopg.DataError)
    assert gate.stored() == ["first", "a", "b"]
    assert gate.pending() == 3


def test_a_site_that_is_being_deleted_is_refused_without_an_error_in_the_log(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """It is expected: the caller is told, and no operator is woken by a stack trace."""

    with gate.db.transaction() as connection:
        make_site(connection, "closing")
        closing = find_site(connection, "closing")
        connection.execute("UPDATE sites SET status = %s WHERE slug = 'closing'", (DELETING,))

    async def act(group_commit: GroupCommit) -> list[int | BaseException]:
        calls = [replace(gate.call(name), site=closing) for name in ("a", "b")]
        tasks = [submit(group_commit, call) for call in calls]
        await asyncio.sleep(0)
        gate.opened.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    for refused in gate.behind_the_gate(act):
        assert isinstance(refused, CallError)
        assert refused.reason == Reason.SITE_DISABLED
    assert [record for record in caplog.records if record.levelno >= logging.WARNING or record.exc_info] == []


def test_closing_commits_what_is_queued_and_takes_no_more(gate: Gate) -> None:
    async def act(group_commit: GroupCommit) -> None:
        queued = submit(group_commit, gate.call("queued"))
        await asyncio.sleep(0)
        closing = asyncio.create_task(group_commit.close())
        await asyncio.sleep(0)
        with pytest.raises(CallError) as refused:
            await group_commit.enqueue(gate.call("late"))
        assert (refused.value.code, refused.value.reason) == (grpc.StatusCode.UNAVAILABLE, Reason.SHUTTING_DOWN)
        assert not closing.done()
        gate.opened.set()
        await closing
        assert queued.result() == 1

    gate.behind_the_gate(act)
    assert gate.stored() == ["first", "queued"]


def test_a_caller_that_went_away_takes_nobody_with_it(gate: Gate) -> None:
    """Its events are stored all the same, and are duplicates when it tries again."""

    async def act(group_commit: GroupCommit) -> tuple[int, int]:
        gone = submit(group_commit, gate.call("gone"))
        stays = submit(group_commit, gate.call("stays"))
        await asyncio.sleep(0)
        gone.cancel()
        gate.opened.set()
        stayed = await stays
        return stayed, await group_commit.enqueue(gate.call("gone"))

    assert gate.behind_the_gate(act) == (1, 0)
    assert gate.stored() == ["first", "gone", "stays"]
