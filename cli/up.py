"""`footfall up` and `footfall migrate`."""

import logging
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from cli.connection import DataDir, database_url, fail
from cli.metrics_targets import metrics_urls, targets_file
from cli.service import SuiteError
from cli.suite import DEFAULT_PORTS, migrate_schema, running_suite
from common.process import signals


def up(
    data_dir: DataDir = Path(".footfall"),
    ports: Annotated[
        str,
        typer.Option(help="Ports of ingest, query and admin; 0 takes a free one.", metavar="INGEST,QUERY,ADMIN"),
    ] = ",".join(map(str, DEFAULT_PORTS)),
    metrics_ports: Annotated[
        str,
        typer.Option(help="Ports of their Prometheus metrics; 0 takes a free one.", metavar="INGEST,QUERY,ADMIN"),
    ] = "0,0,0",
) -> None:
    """Run everything on this machine until Ctrl-C, SIGTERM or the end of the terminal.

    SIGHUP replaces the services, one after the other and without a failed call, by those that are installed now.
    """
    logging.basicConfig(stream=sys.stderr, level="WARNING", format="%(message)s")
    stop, upgrade = threading.Event(), threading.Event()
    signals.watch().tell(on_stop=stop.set, on_hangup=upgrade.set)
    try:
        chosen = _ports(ports, "--ports"), _ports(metrics_ports, "--metrics-ports")
        with running_suite(data_dir, chosen[0], upgrade=upgrade, metrics_ports=chosen[1]) as connection:
            typer.echo(f"ingest  {connection.ingest}")
            typer.echo(f"query   {connection.query}")
            typer.echo(f"admin   {connection.admin}")
            typer.echo(f"keys    {data_dir / 'footfall.json'}")
            typer.echo(f"logs    {data_dir / 'log'}")
            typer.echo(f"metrics {', '.join(metrics_urls(data_dir))}, for Prometheus in {targets_file(data_dir)}")
            typer.echo("Footfall is up. Ctrl-C stops it.")
            stop.wait()
            typer.echo("Stopping …")
    except SuiteError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error


def migrate(data_dir: DataDir = Path(".footfall")) -> None:
    """Bring the schema of FOOTFALL_DATABASE_URL, or of the running `footfall up`, up to date."""
    url = database_url(data_dir)
    try:
        migrate_schema(url)
    except SuiteError as error:
        raise fail(str(error)) from error
    typer.echo("The schema is up to date.")


def _ports(text: str, option: str) -> tuple[int, int, int]:
    try:
        ingest, query, admin = (int(port) for port in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{option} takes three numbers, such as 50051,50052,50053 or 0,0,0") from error
    chosen = [port for port in (ingest, query, admin) if port]
    if not all(0 < port < 65_536 for port in chosen) or len(chosen) != len({*chosen}):
        raise typer.BadParameter(f"{option} takes three different numbers of 1-65535, or 0 for any free port")
    return ingest, query, admin
