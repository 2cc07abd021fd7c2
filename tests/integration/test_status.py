"""GetStatus: pages of sites, and the tables as they are."""

from footfall.admin.v1 import admin_pb2

from tests.support.footfall_site import FootfallSite
from tests.support.refusals import refusal_of
from tests.support.suite import Suite


def test_status_pages_hold_every_site_once_and_the_tables_as_they_are(suite: Suite) -> None:
    """In the order of their slugs; every table of the suite is there with its size, the largest first."""
    made = {FootfallSite(suite, "status").slug for _ in range(5)}
    token, seen = "", []
    site = FootfallSite(suite, "status")
    while True:
        request = admin_pb2.GetStatusRequest(page_size=2, page_token=token)
        page = site.operator.GetStatus(request, metadata=site.as_admin)
        assert page.has_more == (page.next_page_token != "")
        assert 0 < len(page.sites) <= 2
        seen += [state.site for state in page.sites]
        token = page.next_page_token
        if not token:
            break
    assert seen == sorted(seen, key=str.encode)
    assert len(seen) == len(set(seen))
    assert made | {site.slug} <= set(seen)
    tables = {table.name: table for table in page.tables}
    assert {"events", "sessions", "visitors", "rollup_shards", "job_runs", "pending_batches"} <= tables.keys()
    sizes = [table.table_bytes + table.index_bytes for table in page.tables]
    assert sizes == sorted(sizes, reverse=True)
    assert tables["events"].table_bytes > 0
    refused = admin_pb2.GetStatusRequest(site=site.slug, page_size=2, page_token="x")
    assert refusal_of(site.operator.GetStatus, refused, metadata=site.as_admin).reason == "PAGE_TOKEN_INVALID"
