"""`footfall demo`: from a real access log to a report, in one command."""

import json
import shlex
import shutil
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from footfall.admin.v1 import admin_pb2
from rich.console import Console

from cli.connection import Connection, fail
from cli.connection_file import FILE_NAME
from cli.import_log import import_access_log, print_result
from cli.report import print_report
from cli.service import SuiteError
from cli.suite import running_suite
from common.process import signals

SITE = "demo"
LOG = Path(__file__).resolve().parent.parent / "examples" / "semicomplete-2015-05.access.log.gz"
LOG_RANGE = {"start_time": "2015-05-17T00:00:00Z", "end_time": "2015-05-21T00:00:00Z"}
ANY_FREE_PORTS = (0, 0, 0)
AGGREGATION_SECONDS = 120.0


def demo(
    include_bots: Annotated[bool, typer.Option("--include-bots", help="Import the requests of bots too.")] = False,
    data_dir: Annotated[Path, typer.Option(help="Data folder of the demo; it is kept.")] = Path(".footfall/demo"),
) -> None:
    """Start everything, import the bundled access log, show its report, and stop again.

    In a second run all events are duplicates and add nothing.
    """
    if not LOG.exists():
        raise fail(f"the demo's log is part of a source checkout, and {LOG} is not there")
    console = Console()
    signals.watch().tell(on_stop=_interrupt, on_hangup=_interrupt)
    try:
        with running_suite(data_dir, ANY_FREE_PORTS) as connection:
            _ensure_site(connection)
            print_result(import_access_log(connection, LOG, SITE, include_bots=include_bots), SITE)
            with console.status("Waiting until every event is aggregated"):
                wait_until_aggregated(connection, SITE)
            print_report(connection, SITE)
    except SuiteError as error:
        raise fail(str(error)) from error
    typer.echo(_what_next(connection, data_dir))


def wait_until_aggregated(connection: Connection, site: str, seconds: float = AGGREGATION_SECONDS) -> None:
    """Aggregates, beside the schedule, until no event of the site is pending.

    Raises typer.Exit(1) if that takes longer than `seconds`, for example because an event keeps failing.
    """
    deadline = time.monotonic() + seconds
    with connection.open_admin() as admin:
        while True:
            page = admin.AggregatePending(admin_pb2.AggregatePendingRequest(site=site))
            if not page.has_more and page.remaining == 0:
                return
            if time.monotonic() > deadline:
                raise fail(f"{page.remaining} events of {site} are still not aggregated after {seconds:.0f} s")
            if not page.has_more:
                time.sleep(0.1)  # the schedule is at work on the rest


def _interrupt(*_: object) -> None:
    # A second signal would interrupt the stop.
    signals.watch().ignore()
    # The same as Ctrl-C: the processes that were started are stopped.
    raise KeyboardInterrupt


def _ensure_site(connection: Connection) -> None:
    # The log is of 2015, and in a second run its events must be duplicates.
    settings = admin_pb2.SiteSettings(retention_days=36_500)
    settings.dedupe_retention.FromTimedelta(timedelta(days=365))
    with connection.open_admin() as admin:
        admin.EnsureSite(admin_pb2.EnsureSiteRequest(slug=SITE, name="Demo", settings=settings))


def _this_command() -> str:
    """How this command can be started again from here, also if its virtual environment is not active."""
    found = shutil.which("footfall")
    here = Path(sys.argv[0])
    return "footfall" if found and Path(found).resolve() == here.resolve() else str(here)


def _what_next(connection: Connection, data_dir: Path) -> str:
    ports = ",".join(address.rpartition(":")[2] for address in (connection.ingest, connection.query, connection.admin))
    up = shlex.join([_this_command(), "up", "--data-dir", str(data_dir), "--ports", ports])
    # The key itself is not printed, because output ends up in logs and screenshots.
    read_key = f'import json; print(json.load(open("{FILE_NAME}"))["admin_key"])'
    key = f"ADMIN_KEY=$(cd {shlex.quote(str(data_dir))} && python3 -c {shlex.quote(read_key)})"
    grpcurl = shlex.join(["grpcurl", *connection.tls.grpcurl_options()])
    call = f'{grpcurl} -H "authorization: Bearer $ADMIN_KEY" -d'
    overview = json.dumps({"site": SITE, "range": LOG_RANGE})
    top = json.dumps({"site": SITE, "range": LOG_RANGE, "dimension": "DIMENSION_PAGE", "limit": 3})
    return f"""\
Everything has been stopped again. The data is kept in {data_dir}. Start it with

  {up}

and, while that runs, call it from another terminal (grpcurl: go install
github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3):

  {key}
  {grpcurl} {connection.query} describe footfall.query.v1.QueryService
  {call} '{overview}' {connection.query} footfall.query.v1.QueryService/GetOverview
  {call} '{top}' {connection.query} footfall.query.v1.QueryService/GetTop
"""
