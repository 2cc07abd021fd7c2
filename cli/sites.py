"""`footfall sites`: creates, changes and lists sites, and changes their write keys."""

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated

import typer
from footfall.admin.v1 import admin_pb2
from footfall.admin.v1.admin_pb2_grpc import AdminServiceStub
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.connection import DEFAULT_DATA_DIR, Connection, DataDir, printable

app = typer.Typer(help="Create, change and list sites; change write keys.", no_args_is_help=True)

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_STATUS = {
    admin_pb2.SITE_STATUS_ACTIVE: "active",
    admin_pb2.SITE_STATUS_DISABLED: "disabled",
    admin_pb2.SITE_STATUS_DELETING: "being deleted",
}


def parse_duration(text: str) -> timedelta:
    """A duration such as "90s", "1h30m" or "7d". Raises typer.BadParameter for anything else."""
    parts = re.findall(r"(\d{1,9})([smhd])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise typer.BadParameter(f'{text!r} is not a duration such as "90s", "1h30m" or "7d"')
    return sum((timedelta(**{_UNITS[unit]: int(number)}) for number, unit in parts), timedelta())


MaxEventsPerSecond = Annotated[
    int | None,
    typer.Option(
        help="Events that an ingest process takes in a second, up to as many at once; 0 = no limit (default)."
    ),
]


@app.command()
def create(
    slug: Annotated[str, typer.Argument(help="Identifies the site in every call; never changes.")],
    name: Annotated[str, typer.Option(help="Name to display; default: the slug.")] = "",
    retention_days: Annotated[int | None, typer.Option(help="Days that events are kept (default 90).")] = None,
    session_timeout_minutes: Annotated[
        int | None, typer.Option(help="Longest gap inside a session, in minutes (default 30).")
    ] = None,
    dedupe_retention: Annotated[
        str,
        typer.Option(metavar="DURATION", help="How long repeated events are recognised, such as 7d (default 24h)."),
    ] = "",
    shards: Annotated[int, typer.Option(help="Partitions aggregated side by side, 1-64.")] = 1,
    max_events_per_second: MaxEventsPerSecond = None,
    write_key: Annotated[
        str, typer.Option(help="A write key of your own, of 16-256 characters; default: a new one is generated.")
    ] = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Create a site and print its write key, which is shown only once."""
    settings = admin_pb2.SiteSettings(
        retention_days=retention_days,
        rollup_shard_count=shards,
        max_events_per_second=max_events_per_second or 0,
    )
    if session_timeout_minutes is not None:
        settings.session_timeout.seconds = session_timeout_minutes * 60
    if dedupe_retention:
        settings.dedupe_retention.FromTimedelta(parse_duration(dedupe_retention))
    request = admin_pb2.CreateSiteRequest(slug=slug, name=name, settings=settings, write_key=write_key)
    with Connection.read(data_dir).open_admin() as admin:
        response = admin.CreateSite(request)
    typer.echo(f"Created the site {response.site.slug}. Its write key, shown only once:")
    typer.echo(response.write_key)


@app.command()
def update(
    slug: Annotated[str, typer.Argument(help="The site.")],
    max_events_per_second: MaxEventsPerSecond = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Change settings of a site: those of the options given. Ingest sees a change within 5 s."""
    if max_events_per_second is None:
        raise typer.BadParameter("give an option for what is to be changed, such as --max-events-per-second")
    settings = admin_pb2.SiteSettings(max_events_per_second=max_events_per_second)
    request = admin_pb2.UpdateSiteRequest(site=admin_pb2.Site(slug=slug, settings=settings))
    request.update_mask.paths.append("settings.max_events_per_second")
    with Connection.read(data_dir).open_admin() as admin:
        admin.UpdateSite(request)
    limit = f"{max_events_per_second} events a second" if max_events_per_second else "any number of events"
    typer.echo(f"Changed the site {slug}: an ingest process takes {limit}.")


@app.command("list")
def list_sites(data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """List all sites by slug."""
    table = Table("site", "name", "status", "kept", "session timeout", "partitions", "events/s", "created (UTC)")
    with Connection.read(data_dir).open_admin() as admin:
        for site in _all_sites(admin):
            table.add_row(
                Text(site.slug),
                Text(printable(site.name)),
                _STATUS.get(site.status, "?"),
                f"{site.settings.retention_days} days",
                str(site.settings.session_timeout.ToTimedelta()),
                str(site.settings.rollup_shard_count),
                str(site.settings.max_events_per_second or "any"),
                f"{site.create_time.ToDatetime():%Y-%m-%d}",
            )
    if table.row_count:
        Console().print(table)
    else:
        typer.echo("There are no sites yet; create one with `footfall sites create SLUG`.")


@app.command()
def rotate_key(
    slug: Annotated[str, typer.Argument(help="The site.")],
    grace: Annotated[str, typer.Option(metavar="DURATION", help="How long the old keys stay valid.")] = "1h",
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Create a write key and print it, only once; the site's other write keys end after the grace period."""
    request = admin_pb2.RotateWriteKeyRequest(site=slug)
    request.grace_period.FromTimedelta(parse_duration(grace))
    with Connection.read(data_dir).open_admin() as admin:
        response = admin.RotateWriteKey(request)
    typer.echo(f"The new write key of {slug}, shown only once:")
    typer.echo(response.write_key)


def _all_sites(admin: AdminServiceStub) -> Iterator[admin_pb2.Site]:
    token = ""
    while True:
        page = admin.ListSites(admin_pb2.ListSitesRequest(page_token=token))
        yield from page.sites
        if not page.has_more:
            return
        token = page.next_page_token
