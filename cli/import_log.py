"""`footfall import`: imports the pageviews of a web server's log into a site."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import grpc
import typer
from footfall.admin.v1 import admin_pb2
from footfall.ingest.v1 import ingest_pb2
from footfall.type.v1 import event_pb2
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from cli.access_log import EventIds, LogFile, Request, SkipReason, parse_line
from cli.batch_stream import Batch, send_batches
from cli.connection import DEFAULT_DATA_DIR, Connection, DataDir, describe, fail, printable
from cli.user_agents import UserAgent, classify

app = typer.Typer(help="Import events from elsewhere.", no_args_is_help=True)

BATCH_EVENTS = 500
# A message may have 4 MiB. A line has at most 64 KiB and adds at most a few times that.
BATCH_BYTES = 3 * 1024 * 1024
KEY_LIFETIME = timedelta(hours=24)

_DEFAULTS = ingest_pb2.EventDefaults(context=event_pb2.Context(source="access-log"))


@app.callback()
def _group() -> None:
    """Without a callback typer would not make `access-log` a subcommand while it is the only one."""


@dataclass
class ImportResult:
    """The numbers of an import."""

    lines: int = 0
    skipped: Counter[SkipReason] = field(default_factory=Counter)
    first_malformed: tuple[int, bytes] | None = None
    """Its line number (from 1) and its bytes."""
    sent: int = 0
    accepted: int = 0
    duplicate: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    """How many events were rejected, by reason."""
    messages: dict[str, str] = field(default_factory=dict)
    """The server's first message for each reason."""
    damage: str = ""
    """Why the file could not be read to its end; "" = it was."""


@app.command("access-log")
def access_log(
    file: Annotated[Path, typer.Argument(help="A log in Combined Log Format, plain or gzip.")],
    site: Annotated[str, typer.Option(help="The site to add the pageviews to.")],
    include_bots: Annotated[bool, typer.Option("--include-bots", help="Import the requests of bots too.")] = False,
    write_key: Annotated[
        str,
        typer.Option(envvar="FOOTFALL_WRITE_KEY", help="A write key of the site; default: a temporary one."),
    ] = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Import a web server's log as pageviews.

    A pageview is a GET answered with 2xx or 304 whose path is not a static
    asset. A visitor is an address with a user agent; only a hash of the two
    is sent.

    A file can be imported again: within the site's dedupe retention (24 h by
    default) its events are duplicates and add nothing.
    """
    result = import_access_log(Connection.read(data_dir), file, site, include_bots=include_bots, write_key=write_key)
    print_result(result, site)
    if result.damage:
        raise fail(f"{file} could not be read to its end: {result.damage}; the lines before that are imported")


def import_access_log(
    connection: Connection, file: Path, site: str, *, include_bots: bool = False, write_key: str = ""
) -> ImportResult:
    """Sends all pageviews of the log and waits for the answers. Shows a progress bar.

    Without a write key it creates one, which is revoked at the end. A given key decides the site. If the file cannot be
    opened or the server refuses, prints the reason and raises typer.Exit(1).
    """
    result = ImportResult()
    try:
        log = LogFile(file)
    except OSError as error:
        raise fail(f"cannot read {file}: {error.strerror or error}") from None
    with (
        log,
        _write_key(connection, site, write_key) as key,
        connection.open_ingest() as ingest,
        _progress_bar() as progress,
    ):
        task = progress.add_task(printable(file.name), total=log.size)

        def on_retry(reason: str, seconds: float) -> None:
            progress.console.print(Text(printable(f"{reason}; trying again in {seconds:.1f} s")))

        for batch, response in send_batches(ingest, key, _batches(log, result, include_bots), on_retry):
            _count(response, result)
            progress.update(task, completed=batch.position)
        progress.update(task, completed=log.position)
    result.damage = log.damage
    return result


def print_result(result: ImportResult, site: str) -> None:
    """Prints the table of results, the first malformed line, and what to do about events that are too old."""
    console = Console()
    table = Table("", "", show_header=False, title=Text(f"Import into {site}"), title_justify="left")
    table.columns[1].justify = "right"
    table.add_row("lines read", f"{result.lines:,}")
    for skip, count in sorted(result.skipped.items(), key=lambda item: -item[1]):
        table.add_row(f"  skipped: {skip}", f"{count:,}")
    table.add_row("pageviews sent", f"{result.sent:,}")
    table.add_row("  accepted", f"{result.accepted:,}")
    table.add_row("  duplicate", f"{result.duplicate:,}")
    table.add_row("  rejected", f"{result.rejected.total():,}")
    for reason, count in result.rejected.most_common():
        table.add_row(Text(printable(f"    {reason}: {result.messages[reason]}")), f"{count:,}")
    console.print(table)
    if result.first_malformed is not None:
        number, line = result.first_malformed
        console.print(Text(f"The first malformed line is {number:,}: {repr(line)[1:][:200]}"))
    if result.rejected["OCCURRED_AT_TOO_OLD"]:
        console.print(
            Text(
                "Some events are older than the site's retention. Create a site with a longer one, such as\n"
                f"  footfall sites create {site}-history --retention-days 36500\n"
                "and import the log into that site."
            )
        )


@contextmanager
def _write_key(connection: Connection, site: str, given: str) -> Iterator[str]:
    if given:
        yield given
        return
    with connection.open_admin() as admin:
        request = admin_pb2.CreateApiKeyRequest(kind=admin_pb2.API_KEY_KIND_WRITE, site=site, name="footfall import")
        request.ttl.FromTimedelta(KEY_LIFETIME)
        made = admin.CreateApiKey(request)
    try:
        yield made.key
    finally:
        # A key that cannot be revoked expires by itself. The error must not hide why the import failed.
        with connection.open_admin() as admin:
            try:
                admin.RevokeApiKey(admin_pb2.RevokeApiKeyRequest(id=made.api_key.id))
            except grpc.RpcError as error:
                typer.echo(f"The import's write key stays valid for 24 h: {printable(describe(error))}", err=True)


def _batches(log: LogFile, result: ImportResult, include_bots: bool) -> Iterator[Batch]:
    """Batches of at most 500 events and 3 MiB. Counts the lines that are read and skipped."""
    request = ingest_pb2.IngestStreamRequest(defaults=_DEFAULTS)
    size = 0
    for event in _events(log, result, include_bots):
        request.events.append(event)
        size += event.ByteSize()
        if len(request.events) == BATCH_EVENTS or size >= BATCH_BYTES:
            yield Batch(request, log.position)
            request, size = ingest_pb2.IngestStreamRequest(defaults=_DEFAULTS), 0
    if request.events:
        yield Batch(request, log.position)


def _events(log: LogFile, result: ImportResult, include_bots: bool) -> Iterator[ingest_pb2.Event]:
    ids = EventIds()
    for line in log:
        result.lines += 1
        request = parse_line(line)
        if request is None:
            skip: SkipReason | None = SkipReason.MALFORMED
            result.first_malformed = result.first_malformed or (result.lines, line)
        else:
            skip = request.skip_reason
        if request is not None and skip is None:
            agent = classify(request.user_agent)
            if include_bots or not agent.is_bot:
                yield _event(request, agent, ids.next_id(line, request.time))
                continue
            skip = SkipReason.BOT
        if skip is not None:
            result.skipped[skip] += 1


def _event(request: Request, agent: UserAgent, event_id: str) -> ingest_pb2.Event:
    event = ingest_pb2.Event(
        event_id=event_id,
        type=event_pb2.EVENT_TYPE_PAGEVIEW,
        visitor_id=request.visitor_id,
        path=request.path,
        referrer=request.referrer,
        context=event_pb2.Context(device=agent.device, browser=agent.browser, os=agent.os),
    )
    event.occurred_at.FromDatetime(request.time)
    return event


def _count(response: ingest_pb2.IngestStreamResponse, result: ImportResult) -> None:
    result.sent += response.accepted + response.duplicate + response.rejected
    result.accepted += response.accepted
    result.duplicate += response.duplicate
    for error in response.errors:
        result.rejected[error.reason] += 1
        result.messages.setdefault(error.reason, error.message)


def _progress_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
