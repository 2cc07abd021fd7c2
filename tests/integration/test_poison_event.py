"""An event that cannot be counted is set aside alone; nothing else waits for it or is lost with it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from admin_svc.aggregate import Aggregator, Page
from admin_svc.visitor_numbers import VisitorNumbers
from common.db import Database
from tests.footfall_site import FootfallSite
from tests.recount import RawEvent
from tests.traffic import assert_recounts, batch_of, made_up, metadata_of

if TYPE_CHECKING:
    from tests.suite import Suite

LIMIT = 1000
POISON = "/poison"


@dataclass
class Worker:
    """An aggregator of the test's own, with a clock of the test's own."""

    aggregator: Aggregator
    connection: psycopg.Connection[Any]
    now: datetime

    def run(self) -> list[Page]:
        """Pages until nothing is due, of every site in its turn."""
        pages = []
        while (page := self.aggregator.run_once(self.connection, self.now, LIMIT)).worked:
            pages.append(page)
            assert len(pages) < 200, "it does not come to an end"
        return pages

    def counts(self, table: str, site: FootfallSite) -> int:
        of_site = "(SELECT site_id FROM sites WHERE slug = %s)"
        row = self.connection.execute(f"SELECT count(*) FROM {table} WHERE site_id = {of_site}", (site.slug,))
        found: int = row.fetchall()[0][0]
        return found


@pytest.fixture
def worker(suite: "Suite") -> Iterator[Worker]:
    numbers, db = (Database(suite.database_url, application="test") for _ in range(2))
    with db.connection() as connection:
        # What the other tests of the session have left.
        made = Worker(Aggregator(VisitorNumbers(numbers)), connection, datetime.now(UTC))
        made.run()
        made.now += timedelta(minutes=1)
        yield made
    db.close()
    numbers.close()


@contextmanager
def poisoned(worker: Worker, table: str, column: str, sqlstate: str = "P0001") -> Iterator[None]:
    """Every attempt to write a row with the poison in that column fails."""
    worker.connection.execute(
        f"""
        CREATE FUNCTION refuse_poison() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'this is poison' USING ERRCODE = '{sqlstate}'; END $$;
        CREATE TRIGGER poison BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW
        WHEN (NEW.{column} = '{POISON}') EXECUTE FUNCTION refuse_poison();
        """
    )
    try:
        yield
    finally:
        worker.connection.execute(f"DROP TRIGGER poison ON {table}; DROP FUNCTION refuse_poison()")


def bad_event(column: str, number: int = 1) -> RawEvent:
    """An event of a visitor of its own, so that it is alone under the poisoned key."""
    return RawEvent(
        event_id=f"00000000-0000-7000-8000-{number:012}",
        type="pageview",
        occurred_at=made_up(0, visitors=1, events=1)[0].occurred_at,
        visitor_id=POISON if column == "visitor_id" else f"poisoner {number}",
        path=POISON,
    )


@pytest.mark.parametrize(
    ("table", "column", "sqlstate"),
    [
        ("visitors", "visitor_id", "P0001"),
        ("sessions", "page", "23514"),
        ("rollup_shards", "key", "22003"),
        ("rollup_shards", "key", "54000"),
    ],
)
def test_one_bad_event_is_tried_3_times_and_set_aside_while_its_neighbours_are_counted(
    suite: "Suite", worker: Worker, table: str, column: str, sqlstate: str
) -> None:
    """Its page is taken apart at once; alone it waits 5 s, then 10 s, and its error is kept."""
    site = FootfallSite(suite, "poison")
    good, bad = made_up(41, visitors=20, events=400), bad_event(column)
    site.send(batch_of([*good[:250], bad]))
    site.send(batch_of(good[250:]))
    start = worker.now
    with poisoned(worker, table, column, sqlstate):
        pages = worker.run()
        assert sum(page.aggregated for page in pages) == len(good)
        assert len(pages) < 40
        assert_recounts(site, good, not_counted=[bad])
        # After the first attempt, just before the second, after it, just before the third.
        for seconds in (0.0, 4.999, 5.0, 14.999):
            worker.now = start + timedelta(seconds=seconds)
            assert sum(page.failed for page in worker.run()) == 0
            assert metadata_of(site).pending_events == 1
            assert worker.counts("failed_events", site) == 0
        worker.now = start + timedelta(seconds=15)
        assert sum(page.failed for page in worker.run()) == 1
    metadata = metadata_of(site)
    assert (metadata.pending_events, metadata.failed_events) == (0, 1)
    kept = worker.connection.execute("SELECT attempts, error FROM failed_events ORDER BY failed_at DESC LIMIT 1")
    attempts, error = kept.fetchall()[0]
    assert attempts == 3
    assert "this is poison" in error
    assert_recounts(site, good, not_counted=[bad])


def test_a_bad_event_that_is_good_again_in_time_is_counted(suite: "Suite", worker: Worker) -> None:
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


def test_bad_events_hold_up_no_other_lane_and_no_other_site(suite: "Suite", worker: Worker) -> None:
    """While three of them back off, the other site and every other event of their own site is counted."""
    bad_site = FootfallSite(suite, "several-bad", rollup_shard_count=4)
    other_site = FootfallSite(suite, "not-bad")
    good, others = made_up(43, visitors=40, events=300), made_up(44, visitors=20, events=300)
    bad = [bad_event("path", number) for number in range(3)]
    batch = [*good[:100], bad[0], *good[100:200], bad[1], bad[2], *good[200:]]
    bad_site.send(batch_of(batch))
    other_site.send(batch_of(others))
    with poisoned(worker, "sessions", "page"):
        pages = worker.run()
        assert sum(page.aggregated for page in pages) == len(good) + len(others)
        assert metadata_of(bad_site).pending_events == len(bad)
        assert metadata_of(other_site).pending_events == 0
        # New events do not wait behind the bad ones.
        late = made_up(45, visitors=40, events=100)
        bad_site.send(batch_of(late))
        assert sum(page.aggregated for page in worker.run()) == len(late)
    assert_recounts(other_site, others)
    worker.now += timedelta(seconds=5)
    worker.run()
    assert_recounts(bad_site, [*good, *late, *bad])
