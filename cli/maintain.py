"""`footfall maintain`: maintenance by hand, page after page until there is no more."""

from collections.abc import Callable
from typing import Annotated, Any

import typer
from footfall.admin.v1 import admin_pb2
from footfall.admin.v1.admin_pb2_grpc import AdminServiceStub
from rich.console import Console

from cli.connection import DEFAULT_DATA_DIR, Connection, DataDir, fail
from cli.pages import each_page, progress_bar

app = typer.Typer(
    help="Maintenance by hand, in pages; stop it any time, and start it again to go on.", no_args_is_help=True
)

Site = Annotated[str, typer.Option(help="The site.")]
Limit = Annotated[int, typer.Option(help="Rows a page; 0 = the server's default.", min=0)]
MaxPages = Annotated[int, typer.Option(help="Stop after so many pages; 0 = when there is no more.", min=0)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say how much there is to do, and change nothing.")]

Call = Callable[[AdminServiceStub, str], Any]
"""One page after the given page token."""


@app.command("aggregate")
def aggregate_pending(
    site: Site,
    limit: Limit = 0,
    max_pages: MaxPages = 0,
    dry_run: DryRun = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Count a site's pending events."""
    if dry_run:
        return _tell_state(data_dir, site, "pending_events", "pending events")

    def call(admin: AdminServiceStub, _: str) -> Any:
        return admin.AggregatePending(admin_pb2.AggregatePendingRequest(site=site, limit=limit))

    return _loop(data_dir, max_pages, call, {"aggregated": "events counted", "failed": "events set aside"}, "remaining")


@app.command("compact")
def compact_rollups(
    site: Site,
    limit: Limit = 0,
    max_pages: MaxPages = 0,
    dry_run: DryRun = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Fold a site's rollup deltas into its hour and day rows."""
    if dry_run:
        return _tell_state(data_dir, site, "unfolded_deltas", "unfolded deltas")

    def call(admin: AdminServiceStub, token: str) -> Any:
        return admin.CompactRollups(admin_pb2.CompactRollupsRequest(site=site, limit=limit, page_token=token))

    return _loop(data_dir, max_pages, call, {"compacted_shards": "deltas folded"})


@app.command()
def cleanup(
    site: Site,
    limit: Limit = 0,
    max_pages: MaxPages = 0,
    dry_run: DryRun = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Delete what has passed a site's retention."""

    def call(admin: AdminServiceStub, token: str) -> Any:
        return admin.CleanupSite(
            admin_pb2.CleanupSiteRequest(site=site, limit=limit, page_token=token, dry_run=dry_run)
        )

    would = " would go" if dry_run else " deleted"
    kinds = ("events", "sessions", "hourly_rollups", "daily_rollups", "visitors")
    return _loop(data_dir, max_pages, call, {kind: kind.replace("_", " ") + would for kind in kinds})


@app.command()
def prune(limit: Limit = 0, max_pages: MaxPages = 0, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Delete expired dedupe keys, of all sites."""

    def call(admin: AdminServiceStub, _: str) -> Any:
        return admin.PruneExpired(admin_pb2.PruneExpiredRequest(limit=limit))

    return _loop(data_dir, max_pages, call, {"deleted": "expired keys deleted"})


@app.command()
def retry(
    site: Site,
    limit: Limit = 0,
    max_pages: MaxPages = 0,
    dry_run: DryRun = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Give a site's failed events another three attempts."""
    if dry_run:
        return _tell_state(data_dir, site, "failed_events", "failed events")

    def call(admin: AdminServiceStub, _: str) -> Any:
        return admin.RetryFailedEvents(admin_pb2.RetryFailedEventsRequest(site=site, limit=limit))

    return _loop(data_dir, max_pages, call, {"requeued": "events queued again"})


@app.command()
def delete_site(
    site: Site,
    confirm: Annotated[str, typer.Option(help="The site's slug again.")],
    limit: Limit = 0,
    max_pages: MaxPages = 0,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Delete a site and everything it has, for ever."""

    def call(admin: AdminServiceStub, _: str) -> Any:
        return admin.DeleteSite(admin_pb2.DeleteSiteRequest(site=site, limit=limit, confirm_slug=confirm))

    return _loop(data_dir, max_pages, call, {"deleted": "rows deleted"})


@app.command()
def erase_visitor(
    site: Site,
    visitor: Annotated[str, typer.Option(help="The visitor's id.")] = "",
    user: Annotated[str, typer.Option(help="A user id: every visitor linked to it.")] = "",
    limit: Limit = 0,
    max_pages: MaxPages = 0,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Erase what is kept of a visitor or user, for ever; counts stay."""
    if bool(visitor) == bool(user):
        raise fail("name either a --visitor or a --user")
    subject = {"visitor_id": visitor} if visitor else {"user_id": user}

    def call(admin: AdminServiceStub, token: str) -> Any:
        return admin.EraseVisitor(admin_pb2.EraseVisitorRequest(site=site, limit=limit, page_token=token, **subject))

    return _loop(data_dir, max_pages, call, {kind: f"{kind} erased" for kind in ("events", "sessions", "visitors")})


def _loop(data_dir: Any, max_pages: int, call: Call, told: dict[str, str], remaining: str = "") -> None:
    """Calls page after page; says at the end what the fields of `told` came to."""
    sums = dict.fromkeys(told, 0)
    console = Console()
    has_more = False
    with Connection.read(data_dir).open_admin() as admin, progress_bar("Rows", console) as bar:
        for page in each_page(lambda token: call(admin, token), lambda page: _done(page, told), max_pages):
            for field in told:
                sums[field] += getattr(page, field)
            bar.advance(_done(page, told), getattr(page, remaining) if remaining else None)
            has_more = page.has_more
    for field, count in sums.items():
        console.print(f"{count:,} {told[field]}", highlight=False)
    if has_more:
        console.print("There is more; run it again to go on.", highlight=False)


def _done(page: Any, told: dict[str, str]) -> int:
    return sum(int(getattr(page, field)) for field in told)


def _tell_state(data_dir: Any, site: str, field: str, what: str) -> None:
    with Connection.read(data_dir).open_admin() as admin:
        [state] = admin.GetStatus(admin_pb2.GetStatusRequest(site=site)).sites
    Console().print(f"{getattr(state, field):,} {what}", highlight=False)
