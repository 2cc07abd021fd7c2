"""`footfall rebuild`: throws a site's derived rows away and makes them again from its raw events."""

from typing import Annotated

import typer
from footfall.admin.v1 import admin_pb2
from rich.console import Console

from cli.connection import DEFAULT_DATA_DIR, Connection, DataDir
from cli.pages import each_page, progress_bar


def rebuild(
    site: Annotated[str, typer.Option(help="The site to rebuild.")],
    limit: Annotated[int, typer.Option(help="Events or rows a chunk; 0 = the server's default.")] = 0,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Make a site's visitors, sessions and rollups again from its raw events.

    The site goes on taking events. If it is stopped, nothing is lost, but
    reports are incomplete until it is run again: it goes on where it was.
    """
    console = Console()
    queued = cleared = aggregated = failed = 0

    def ask(token: str) -> admin_pb2.RebuildSiteResponse:
        return admin.RebuildSite(admin_pb2.RebuildSiteRequest(site=site, limit=limit, page_token=token))

    with Connection.read(data_dir).open_admin() as admin, progress_bar("Events aggregated again", console) as bar:
        for page in each_page(ask, lambda page: page.queued or page.cleared or page.aggregated or page.remaining == 0):
            queued, cleared = queued + page.queued, cleared + page.cleared
            aggregated, failed = aggregated + page.aggregated, failed + page.failed
            # Background workers aggregate too: what is done is what is not left.
            bar.advance(page.aggregated, page.remaining)
    console.print(f"{queued:,} events queued again, {cleared:,} derived rows cleared.", highlight=False)
    if failed:
        console.print(f"{failed:,} events could not be aggregated and are dead letters now.", highlight=False)
