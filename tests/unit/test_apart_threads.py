"""While a site is stored apart, which may take long, the other threads are everybody else's."""

import asyncio
import threading
from datetime import UTC, datetime

import psycopg

from ingest_svc.event_rows import Row
from ingest_svc.group_commit import WORTH_ANOTHER, GroupCommit
from ingest_svc.store_events import Incoming, SiteFault
from tests.support.made_sites import made_site

LOUD, QUIET = 1, 2
SECONDS = 10.0


def call(site_id: int, events: int = 1) -> Incoming:
    return Incoming(made_site(site_id), [Row(0, None, b"")] * events, datetime.now(UTC))


def test_a_site_apart_has_one_thread_and_a_single_event_of_another_the_next() -> None:
    entered, opened = threading.Event(), threading.Event()
    groups: list[set[int]] = []

    def commit(calls: list[Incoming]) -> list[int]:
        groups.append({one.site.site_id for one in calls})
        if len(groups) == 1:
            raise SiteFault(LOUD, psycopg.errors.LockNotAvailable())
        if groups[-1] == {LOUD}:
            entered.set()
            assert opened.wait(SECONDS)
        return [len(one.rows) for one in calls]

    async def run() -> None:
        group_commit = GroupCommit([commit, commit], 100_000, 2**30)
        loud = [group_commit.enqueue(call(LOUD))]
        await asyncio.to_thread(entered.wait, SECONDS)
        loud += [group_commit.enqueue(call(LOUD, WORTH_ANOTHER)) for _ in range(5)]
        for _ in range(5):
            assert await group_commit.enqueue(call(QUIET)) == 1
        assert groups == [{LOUD}, {LOUD}, *[{QUIET}] * 5]
        opened.set()
        assert sum(await asyncio.gather(*loud)) == 5 * WORTH_ANOTHER + 1
        await group_commit.close()

    try:
        asyncio.run(asyncio.wait_for(run(), SECONDS))
    finally:
        opened.set()
