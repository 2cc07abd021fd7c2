"""`footfall maintain`: maintenance by hand, chunk after chunk until there is no more."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from footfall.admin.v1 import admin_pb2 as pb
from footfall.admin.v1.admin_pb2_grpc import AdminServiceStub
from rich.console import Console

from cli.connection import DEFAULT_DATA_DIR, Connection, DataDir, fail
from cli.pages import each_page, progress_bar

app = typer.Typer(
    help="Maintenance by hand, in bounded chunks; stop it any time, and start it again to go on.", no_args_is_help=True
)

Site = Annotated[str, typer.Option(help="The site.")]
Limit = Annotated[int, typer.Option(help="Rows a chunk; 0 = the server's default.", min=0)]
MaxChunks = Annotated[
    int, typer.Option("--max-pages", help="Stop after so many chunks; 0 = when there is no more.", min=0)
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say how much there is to do, and change nothing.")]

Ask = Callable[[AdminServiceStub, str], Any]
"""One chunk: calls an RPC with the page token of the chunk before."""


class Job(NamedTuple):
    """A command on one site; its name is that of the command."""

    name: str
    help: str
    ask: Callable[[AdminServiceStub, str, int, str], Any]
    """Calls the RPC with a site, a limit and a page token."""
    shown: dict[str, str]
    """Fields of the response that are summed up and shown, with what each sum is called."""
    left: tuple[str, str]
    """The field of GetStatus that a dry run shows, and what it is called."""
    remaining: str = ""
    """The field of the response that says how much is left; "" = none."""


JOBS = (
    Job(
        "aggregate",
        "Aggregate a site's pending events.",
        lambda admin, site, limit, _: admin.AggregatePending(pb.AggregatePendingRequest(site=site, limit=limit)),
        {"aggregated": "events aggregated", "failed": "events became dead letters"},
        ("pending_events", "pending events"),
        "remaining",
    ),
    Job(
        "compact",
        "Compact a site's rollup deltas into its hour and day rows.",
        lambda admin, site, limit, token: admin.CompactRollups(
            pb.CompactRollupsRequest(site=site, limit=limit, page_token=token)
        ),
        {"compacted_shards": "deltas compacted"},
        ("unfolded_deltas", "deltas not yet compacted"),
    ),
    Job(
        "retry",
        "Give a site's dead letters another three attempts.",
        lambda admin, site, limit, _: admin.RetryFailedEvents(pb.RetryFailedEventsRequest(site=site, limit=limit)),
        {"requeued": "events queued again"},
        ("failed_events", "dead letters"),
    ),
)


def _add(job: Job) -> None:
    def command(
        site: Site,
        limit: Limit = 0,
        max_chunks: MaxChunks = 0,
        dry_run: DryRun = False,
        data_dir: DataDir = DEFAULT_DATA_DIR,
    ) -> None:
        if dry_run:
            with Connection.read(data_dir).open_admin() as admin:
                [state] = admin.GetStatus(pb.GetStatusRequest(site=site)).sites
            field, what = job.left
            Console().print(f"{getattr(state, field):,} {what}", highlight=False)
        else:
            _loop(
                data_dir, max_chunks, lambda admin, token: job.ask(admin, site, limit, token), job.shown, job.remaining
            )

    app.command(job.name, help=job.help)(command)


for _job in JOBS:
    _add(_job)


@app.command()
def cleanup(
    site: Site,
    limit: Limit = 0,
    max_chunks: MaxChunks = 0,
    dry_run: DryRun = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Delete what has passed a site's retention."""

    def ask(admin: AdminServiceStub, token: str) -> Any:
        return admin.CleanupSite(pb.CleanupSiteRequest(site=site, limit=limit, page_token=token, dry_run=dry_run))

    done = "would be deleted" if dry_run else "deleted"
    kinds = ("events", "sessions", "hourly_rollups", "daily_rollups", "visitors")
    _loop(data_dir, max_chunks, ask, {kind: f"{kind.replace('_', ' ')} {done}" for kind in kinds})


@app.command()
def prune(limit: Limit = 0, max_chunks: MaxChunks = 0, data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Delete expired dedupe keys, of all sites."""

    def ask(admin: AdminServiceStub, _: str) -> Any:
        return admin.PruneExpired(pb.PruneExpiredRequest(limit=limit))

    _loop(data_dir, max_chunks, ask, {"deleted": "expired keys deleted"})


@app.command()
def delete_site(
    site: Site,
    confirm: Annotated[str, typer.Option(help="The site's slug again.")],
    limit: Limit = 0,
    max_chunks: MaxChunks = 0,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Delete a site and everything it has, for ever."""

    def ask(admin: AdminServiceStub, _: str) -> Any:
        return admin.DeleteSite(pb.DeleteSiteRequest(site=site, limit=limit, confirm_slug=confirm))

    _loop(data_dir, max_chunks, ask, {"deleted": "rows deleted"})


@app.command()
def erase_visitor(
    site: Site,
    visitor: Annotated[str, typer.Option(help="The visitor's id.")] = "",
    user: Annotated[str, typer.Option(help="A user id: every visitor linked to it.")] = "",
    limit: Limit = 0,
    max_chunks: MaxChunks = 0,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Erase what is kept of a visitor or user, for ever; counts stay."""
    if bool(visitor) == bool(user):
        raise fail("name either a --visitor or a --user")

    def ask(admin: AdminServiceStub, token: str) -> Any:
        request = pb.EraseVisitorRequest(site=site, limit=limit, page_token=token)
        if visitor:
            request.visitor_id = visitor
        else:
            request.user_id = user
        return admin.EraseVisitor(request)

    _loop(data_dir, max_chunks, ask, {kind: f"{kind} erased" for kind in ("events", "sessions", "visitors")})


def _loop(data_dir: Path, max_chunks: int, ask: Ask, shown: dict[str, str], remaining: str = "") -> None:
    """Calls chunk after chunk; prints at the end what the fields of `shown` came to."""

    def done(response: Any) -> int:
        return sum(int(getattr(response, field)) for field in shown)

    sums = dict.fromkeys(shown, 0)
    console = Console()
    has_more = False
    with Connection.read(data_dir).open_admin() as admin, progress_bar("Rows", console) as bar:
        for response in each_page(lambda token: ask(admin, token), done, max_chunks):
            for field in shown:
                sums[field] += getattr(response, field)
            bar.advance(done(response), getattr(response, remaining) if remaining else None)
            has_more = response.has_more
    for field, count in sums.items():
        console.print(f"{count:,} {shown[field]}", highlight=False)
    if has_more:
        console.print("There is more; run it again to go on.", highlight=False)
