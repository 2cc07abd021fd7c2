"""An erasure beside senders, workers and a visitor who goes on."""

import threading
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
from footfall.admin.v1 import admin_pb2

from admin_svc.counting import compact
from admin_svc.counting.aggregate import Aggregator
from admin_svc.counting.visitor_numbers import VisitorNumbers
from common.db import Database
from tests.oracle.raw_events import DAY, HOUR, MINUTE
from tests.support.erasing import (
    TEN,
    assert_counts,
    assert_nothing_names,
    erase,
    erase_all,
    named,
    removed,
)
from tests.support.footfall_site import FootfallSite
from tests.support.refusals import batch, event
from tests.support.site_rows import opened, site_id_of, tables_with
from tests.support.suite import Suite
from tests.support.traffic import batch_of


def test_erasing_beside_senders_and_workers_changes_no_count(suite: Suite, database: psycopg.Connection[Any]) -> None:
    """Several visitors are erased in small chunks while others are sent, aggregated and compacted."""
    site = FootfallSite(suite, "erase", rollup_shard_count=4)
    events = named(4, visitors=12, events=900)
    gone = sorted({event.visitor_id for event in events})[:4]
    first = [event for event in events if event.visitor_id in gone]
    rest = [event for event in events if event.visitor_id not in gone]
    site.send(batch_of(first))
    site_id = site_id_of(database, site)
    stopping = threading.Event()
    db = Database(suite.database_url, application="test")
    aggregator = Aggregator(VisitorNumbers(db))

    def work() -> None:
        with opened(suite) as worker:
            while not stopping.is_set():
                aggregator.aggregate(worker, site_id, datetime.now(UTC) + timedelta(seconds=1), 50)
                compact.compact(worker, site_id, datetime.now(UTC), 30)

    def send() -> None:
        for at in range(0, len(rest), 20):
            site.send(batch_of(rest[at : at + 20]))

    threads = [threading.Thread(target=work), threading.Thread(target=work), threading.Thread(target=send)]
    for thread in threads:
        thread.start()
    totals = [removed(erase_all(site, 9, visitor_id=visitor)) for visitor in gone]
    threads[-1].join()
    stopping.set()
    for thread in threads:
        thread.join()
    db.close()
    site.aggregate()
    assert [total[0] for total in totals] == [sum(e.visitor_id == visitor for e in first) for visitor in gone]
    assert_nothing_names(database, site, set(gone), rest)
    assert_counts(site, events)


def test_a_late_event_behind_the_place_that_was_reached_goes_too(
    suite: Suite, database: psycopg.Connection[Any]
) -> None:
    """It was aggregated between two chunks; and no report takes it for a visitor of its own."""
    site = FootfallSite(suite, "erase")
    gone = f"<{uuid4().hex[:8]}>"
    chunk = admin_pb2.EraseVisitorResponse()
    for minutes in (range(1, 25), (0, 0.5)):
        sent = [event(visitor_id=gone) for _ in minutes]
        for one, minute in zip(sent, minutes, strict=True):
            one.occurred_at.FromMicroseconds(TEN + round(minute * MINUTE))
        site.send(batch(*sent))
        site.aggregate()
        chunk = erase(site, 5, chunk.next_page_token, visitor_id=gone)
        assert (chunk.events, chunk.has_more) == (5, True)
    while chunk.has_more:
        chunk = erase(site, 5, chunk.next_page_token, visitor_id=gone)
    assert site.events() == []
    assert tables_with(database, gone) == []
    assert site.overview(TEN, TEN + HOUR).events == 26


def test_a_chunk_waits_for_the_workers_and_keeps_them_out(suite: Suite, database: psycopg.Connection[Any]) -> None:
    """What a worker is about to write of a visitor would else come after it is gone."""
    site = FootfallSite(suite, "erase")
    site.send(batch(event(visitor_id="a")))
    with opened(suite) as worker:
        worker.execute("BEGIN")
        worker.execute("SELECT pg_advisory_xact_lock_shared(%s, -1)", (site_id_of(database, site),))
        erasing = threading.Thread(target=erase_all, args=(site,), kwargs={"visitor_id": "a"})
        erasing.start()
        erasing.join(0.5)
        assert erasing.is_alive()
        worker.execute("COMMIT")
        erasing.join()
    assert site.events() == []


def test_it_ends_although_its_visitor_goes_on(suite: Suite, database: psycopg.Connection[Any]) -> None:
    """One event more between any two chunks, on time or late; what is left then is a visitor of its own."""
    site = FootfallSite(suite, "erase")
    gone = f"<{uuid4().hex[:8]}>"

    def send(minutes: list[float], visitor: str = gone) -> None:
        sent = [event(visitor_id=visitor) for _ in minutes]
        for one, minute in zip(sent, minutes, strict=True):
            one.occurred_at.FromMicroseconds(TEN + round(minute * MINUTE))
        site.send(batch(*sent))
        site.aggregate()

    send([minute / 2 for minute in range(100)])
    send([minute / 10 for minute in range(500)], "other")
    chunks = [erase(site, 5, visitor_id=gone)]
    while chunks[-1].has_more:
        send([50 + len(chunks) if len(chunks) % 2 else 0.01 * len(chunks)])
        chunks.append(erase(site, 5, chunks[-1].next_page_token, visitor_id=gone))
        assert len(chunks) < 200
    site_id = site_id_of(database, site)
    numbers = [row[0] for row in database.execute("SELECT visitor_no FROM sessions WHERE site_id = %s", (site_id,))]
    known = [row[0] for row in database.execute("SELECT visitor_no FROM visitors WHERE site_id = %s", (site_id,))]
    assert set(numbers) == set(known)
    erase_all(site, visitor_id=gone)
    assert site.overview(TEN - DAY, TEN + DAY).events == 600 + len(chunks) - 1
