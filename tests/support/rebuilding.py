"""What tests of `footfall rebuild` and `footfall verify` share: sites with traffic, pages by hand, commands."""

from datetime import UTC, datetime, timedelta

from footfall.admin.v1 import admin_pb2

from tests.oracle.recount import SECOND, RawEvent
from tests.support.footfall_site import FootfallSite
from tests.support.hands import Hands
from tests.support.traffic import batch_of
from tests.support.upkeep import compact


def sent(hands: Hands, name: str, events: list[RawEvent], *, partitions: int = 3) -> FootfallSite:
    """A site that has taken and counted the events, half of them compacted."""
    site = FootfallSite(hands.suite, name, rollup_shard_count=partitions)
    for at in range(0, len(events), 60):
        site.send(batch_of(events[at : at + 60]))
        if at > len(events) // 2:
            site.aggregate()
            if at < len(events) * 3 // 4:
                compact(site)
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
