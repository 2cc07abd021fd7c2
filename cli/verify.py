"""`footfall verify`: recounts a site from its raw events and compares every answer."""

from contextlib import closing
from datetime import timedelta
from typing import Annotated
from zoneinfo import ZoneInfo

import typer
from rich.console import Console
from rich.progress import track

from cli.connection import DEFAULT_DATA_DIR, Connection, DataDir, database_url, fail, printable
from cli.erased_hours import ErasedHours
from cli.recount_sql import Recount
from cli.report_range import parse_instant
from cli.verify_checks import Checks, Span
from common.connection import Connection as DatabaseConnection
from common.connection import Limits
from common.db import Database, DatabaseFault
from common.schema_revision import SchemaError, check_revision

_LIMITS = Limits(0, 5_000, 0)
"""A recount reads everything, so it takes as long as it takes."""

TRIES = 5
_SHOWN = 20


def verify(
    site: Annotated[str, typer.Option(help="The site to recount.")],
    start: Annotated[str, typer.Option(help="ISO time (UTC) to begin at; default: the first event.")] = "",
    end: Annotated[str, typer.Option(help="ISO time (UTC) to end before; default: after the last event.")] = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Recount a site from raw events and compare every answer; exit with 1 if any differs.

    If old raw events have been cleaned up, it compares what can be recounted from
    the others, and says so. It only reads, but from the database itself: that of
    FOOTFALL_DATABASE_URL, or of the running `footfall up`.
    """
    connection = Connection.read(data_dir)
    db = Database(database_url(data_dir), application="footfall verify", limits=_LIMITS)
    console = Console()
    with connection.open_query() as query:
        try:
            with closing(db.connect()) as database:
                check_revision(database)
                recount = _recount(database, site)
                span = _span(recount, start, end)
                if span is None:
                    console.print("There is nothing to compare: the range has no aggregated raw events.")
                    return
                if recount.whole_from:
                    console.print(
                        f"Older raw events have been cleaned up: compared from {recount.whole_from:%F %T} UTC on, "
                        "without new visitors and first touches, which cannot be recounted from the others.",
                        highlight=False,
                    )
                differences = []
                erased = ErasedHours.read(database, site)
                checks = Checks(site, span, erased, whole=recount.whole_from is None)
                for check in track(list(checks), "Comparing", console=console):
                    for _ in range(TRIES):
                        counted, answered = check.counted(recount), check.answered(query)
                        if counted == answered:
                            break
                        # Events that come in meanwhile make a difference that goes away. One that stays is a defect.
                        recount = _recount(database, site)
                    else:
                        differences.append(_difference(check.what, counted, answered))
        except LookupError:
            raise fail(f"there is no site {site!r}") from None
        except SchemaError as error:
            raise fail(str(error)) from None
        except DatabaseFault as error:
            raise fail(f"the database cannot be reached or gave up: {error}") from None
    for difference in differences[:_SHOWN]:
        console.print(printable(difference), markup=False, highlight=False)
    if differences:
        raise fail(f"{len(differences)} answers differ from the recount ({len(differences[:_SHOWN])} are shown)")
    if erased.hours:
        console.print(
            f"Left out: the {len(erased.hours)} hours of which visitors were erased, and ranges that touch them."
        )
    console.print(f"Every answer from {span[0]:%F %T} to {span[1]:%F %T} UTC equals the recount.")


def _recount(database: DatabaseConnection, site: str) -> Recount:
    """A recount in a transaction of its own, which ends the one before."""
    database.rollback()
    database.begin("BEGIN ISOLATION LEVEL READ COMMITTED")
    return Recount(database, site)


def _difference(what: str, counted: object, answered: object) -> str:
    if isinstance(counted, dict) and isinstance(answered, dict):
        names = [name for name in {**counted, **answered} if counted.get(name) != answered.get(name)][:5]
        counted, answered = ({name: side.get(name) for name in names} for side in (counted, answered))
    elif isinstance(counted, list) and isinstance(answered, list):
        counted, answered = (
            [row for row in counted if row not in answered][:5],
            [row for row in answered if row not in counted][:5],
        )
    return f"{what}\n  recount {counted}\n  answer  {answered}"


def _span(recount: Recount, start: str, end: str) -> Span | None:
    found = recount.span()
    if found is None:
        return None
    zone = ZoneInfo("UTC")
    first = parse_instant(start, zone) if start else found[0]
    last = parse_instant(end, zone) if end else found[1] + timedelta(microseconds=1)
    if last <= first:
        raise typer.BadParameter("--end must be later than --start")
    if recount.whole_from:
        first = max(first, recount.whole_from)
    return (first, last) if first < last else None
