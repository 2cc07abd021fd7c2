"""The `footfall` command. Each of its commands has a file of its own."""

import os

import typer

from cli import demo, import_log, maintain, rebuild, report, sites, terminal, up, verify
from cli.connection import printable
from common.process.variables import unknown_variables

app = typer.Typer(
    help="Self-hosted web and product analytics whose every number can be recounted.",
    no_args_is_help=True,
    # Local variables in a traceback would show keys.
    pretty_exceptions_show_locals=False,
)
app.command()(up.up)
app.command()(up.migrate)
app.command()(report.report)
app.command()(verify.verify)
app.command()(rebuild.rebuild)
app.command()(demo.demo)
app.add_typer(sites.app, name="sites")
app.add_typer(import_log.app, name="import")
app.add_typer(maintain.app, name="maintain")


def main() -> None:
    """Runs the `footfall` command. Names variables that have no effect on standard error first."""
    for line in unknown_variables(os.environ):
        typer.echo(printable(line), err=True)
    terminal.run(app)


if __name__ == "__main__":
    main()
