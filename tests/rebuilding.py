"""What tests of `footfall rebuild` and `footfall verify` share: sites with traffic, pages by hand, commands."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from footfall.admin.v1 import admin_pb2
from typer.testing import CliRunner

from admin_svc import compact, rebuild
from admin_svc.aggregate import Aggregator
from admin_svc.visitor_numbers import VisitorNumbers
from cli.main import app
from common.db import Database
from tests.footfall_site import FootfallSite
from tests.property.tables import Tables, stored
from tests.recount import SECOND, RawEvent
from tests.suite import Suite
from tests.traffic import batch_of

LATER = datetime(2100, 1, 1, tzinfo=UTC)
"""A `now` at which everything pending is due."""


@dataclass
class Hands:
    """What a test needs to do page by page what the admin process does."""

    suite: Suite
    db: Database
    numbers: VisitorNumbers
    connection: psycopg.Connection[Any]
    """In autocommit."""

    def site_id(self, site: FootfallSite) -> int:
        """The site's number."""
        [(site_id,)] = self.connection.execute("SELECT site_id FROM sites WHERE slug = %s", (site.slug,)).fetchall()
        return int(site_id)

    def page(
        self, site: FootfallSite, number: int | None = None, *, limit: int = 1_000, now: datetime = LATER
    ) -> rebuild.Page:
        """One page of a rebuild."""
        aggregator = Aggregator(self.numbers)
        return rebuild.run_once(self.connection, aggregator, self.site_id(site), now, limit, number)

    def fold(self, site: FootfallSite) -> None:
        """Folds whatever is not folded."""
        while compact.run_once(self.connection, self.site_id(site), 1_000).shards:
            pass

    def tables(self, site: FootfallSite) -> Tables:
        """The derived tables."""
        return stored(self.connection, self.site_id(site))

    def rows(self, site: FootfallSite, table: str, condition: str = "true") -> list[Any]:
        """The rows as they lie there, unchanged ones in their places."""
        found = self.connection.execute(
            f"SELECT ctid::text, * FROM {table} WHERE site_id = %s AND {condition}", (self.site_id(site),)
        )
        return sorted(found.fetchall(), key=repr)


@contextmanager
def hands_on(suite: Suite) -> Iterator[Hands]:
    """Hands on the suite's database."""
    db = Database(suite.database_url, application="test")
    with db.connection() as connection:
        yield Hands(suite, db, VisitorNumbers(db), connection)
    db.close()


def command(suite: Suite, name: str, site: FootfallSite, *options: str) -> tuple[int, str]:
    """Exit code and output of a `footfall` command on a site."""
    result = CliRunner().invoke(
        app,
        [name, "--site", site.slug, "--data-dir", str(suite.data_dir), *options],
        env={"FOOTFALL_DATABASE_URL": suite.database_url, "COLUMNS": "200"},
    )
    return result.exit_code, result.output


def sent(hands: Hands, name: str, events: list[RawEvent], *, lanes: int = 3) -> FootfallSite:
    """A site that has taken and counted the events, half of them folded."""
    site = FootfallSite(hands.suite, name, rollup_shard_count=lanes)
    for at in range(0, len(events), 60):
        site.send(batch_of(events[at : at + 60]))
        if at > len(events) // 2:
            site.aggregate()
            if at < len(events) * 3 // 4:
                hands.fold(site)
    site.aggregate()
    return site


def rebuild_page(site: FootfallSite, token: str = "", limit: int = 0) -> admin_pb2.RebuildSiteResponse:
    """One page over the RPC."""
    request = admin_pb2.RebuildSiteRequest(site=site.slug, page_token=token, limit=limit)
    page: admin_pb2.RebuildSiteResponse = site.operator.RebuildSite(request, metadata=site.as_admin)
    assert page.has_more == (page.next_page_token != "")
    return page


def rebuilt(site: FootfallSite, limit: int = 0) -> list[admin_pb2.RebuildSiteResponse]:
    """Every page of a rebuild."""
    pages = [rebuild_page(site, limit=limit)]
    while pages[-1].has_more:
        pages.append(rebuild_page(site, pages[-1].next_page_token, limit))
        assert len(pages) < 2_000, "it does not come to an end"
    return pages


def in_phase(hands: Hands, site: FootfallSite, phase: int) -> bool:
    """Whether the site's rebuild has come to it: 1 queueing, 2 clearing, 3 counting, 4 done."""
    [(found,)] = hands.connection.execute(
        "SELECT phase FROM rebuilds WHERE site_id = %s", (hands.site_id(site),)
    ).fetchall()
    return bool(found == phase)


def instant_of(micros: int) -> datetime:
    return datetime.fromtimestamp(micros // SECOND, UTC) + timedelta(microseconds=micros % SECOND)
