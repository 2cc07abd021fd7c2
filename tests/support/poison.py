"""An event that cannot be aggregated, and a worker that a test drives by its own clock."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg

from admin_svc.counting import queue
from admin_svc.counting.aggregate import Aggregated, Aggregator
from tests.oracle.raw_events import RawEvent
from tests.support.footfall_site import FootfallSite
from tests.support.traffic import made_up

LIMIT = 1000
POISON = "/poison"


@dataclass
class Worker:
    """An aggregator of the test's own, with a clock of the test's own."""

    aggregator: Aggregator
    connection: psycopg.Connection[Any]
    now: datetime

    def run(self) -> list[Aggregated]:
        """What each chunk did, until nothing is due, of every site in its turn."""
        done = []
        sites = queue.sites_with_work(self.connection, self.now)
        while sites:
            for site_id in tuple(sites):
                chunk = self.aggregator.aggregate(self.connection, site_id, self.now, LIMIT)
                if chunk.has_more:
                    done.append(chunk.done)
                else:
                    sites.remove(site_id)
            assert len(done) < 200, "it does not come to an end"
        return done

    def fail(self, site: FootfallSite) -> None:
        """Works until nothing of the site is pending: what cannot be aggregated has had its three attempts."""
        for seconds in (0, 5, 10):
            self.now += timedelta(seconds=seconds)
            self.run()
        assert self.counts("pending_batches", site) == 0

    def counts(self, table: str, site: FootfallSite) -> int:
        of_site = "(SELECT site_id FROM sites WHERE slug = %s)"
        row = self.connection.execute(f"SELECT count(*) FROM {table} WHERE site_id = {of_site}", (site.slug,))
        found: int = row.fetchall()[0][0]
        return found


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
