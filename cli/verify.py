"""`footfall verify`: counts a site again from its raw events and compares every answer."""

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, NamedTuple
from zoneinfo import ZoneInfo

import psycopg
import typer
from footfall.query.v1 import query_pb2
from footfall.query.v1.query_pb2_grpc import QueryServiceStub
from rich.console import Console
from rich.progress import track

from cli.connection import DEFAULT_DATA_DIR, Connection, DataDir, database_url, fail, printable
from cli.recount_sql import EVENT_DIMENSIONS, SESSION_DIMENSIONS, Measures, Recount
from cli.report_range import parse_instant, time_range
from common.db import plain_url

MAX_ROWS = 1_000
TRIES = 5
_RANDOM_RANGES = 20
_SHOWN = 20
_BUCKETS_A_CALL = 2_000
_HOUR = timedelta(hours=1)

Span = tuple[datetime, datetime]


class Check(NamedTuple):
    """One answer to compare; both sides are asked anew when they differ, for events may have come in between."""

    what: str
    counted: Callable[[Recount], object]
    answered: Callable[[QueryServiceStub], object]


def verify(
    site: Annotated[str, typer.Option(help="The site to count again.")],
    start: Annotated[str, typer.Option(help="ISO time (UTC) to begin at; default: the first event.")] = "",
    end: Annotated[str, typer.Option(help="ISO time (UTC) to end before; default: after the last event.")] = "",
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Recount a site from raw events and compare every answer; exit 1 if any differs.

    Needs the database itself: FOOTFALL_DATABASE_URL, or the data folder of
    the running `footfall up`. It only reads.
    """
    connection = Connection.read(data_dir)
    url = plain_url(database_url(data_dir))
    console = Console()
    with connection.open_query() as query:
        try:
            with psycopg.connect(url, options="-c timezone=UTC") as database:
                recount = Recount(database, site)
                span = _span(recount, start, end)
                if span is None:
                    console.print("There is nothing to count: no event of the site is aggregated.")
                    return
                differences = []
                for check in track(list(checks(site, span)), "Comparing", console=console):
                    for _ in range(TRIES):
                        counted, answered = check.counted(recount), check.answered(query)
                        if counted == answered:
                            break
                        # A difference that comes and goes is traffic; one that stays is a defect.
                        database.rollback()
                        recount = Recount(database, site)
                    else:
                        differences.append(_difference(check.what, counted, answered))
        except LookupError:
            raise fail(f"there is no site {site!r}") from None
        except psycopg.OperationalError as error:
            raise fail(f"the database cannot be reached: {error}") from None
    for difference in differences[:_SHOWN]:
        console.print(printable(difference), markup=False, highlight=False)
    if differences:
        raise fail(f"{len(differences)} answers differ from the recount ({len(differences[:_SHOWN])} are shown)")
    console.print(f"Every answer from {span[0]:%F %T} to {span[1]:%F %T} UTC equals the recount.")


def checks(site: str, span: Span) -> Iterator[Check]:
    """Overview, hours, days and every dimension of the span, and overviews and two dimensions of random ranges."""
    yield _overview(site, span)
    for interval, step in ((query_pb2.INTERVAL_HOUR, _HOUR), (query_pb2.INTERVAL_DAY, 24 * _HOUR)):
        yield from _timeseries(site, span, interval, step)
    for dimension in (*EVENT_DIMENSIONS, *SESSION_DIMENSIONS):
        yield _top(site, dimension, span)
    rng = random.Random(f"{site} {span}")  # noqa: S311  # any ranges will do; the same ones every time help to look
    length = span[1] - span[0]
    for _ in range(_RANDOM_RANGES):
        first, last = sorted(span[0] + length * rng.random() for _ in range(2))
        if first < last:
            yield _overview(site, (first, last))
            yield _top(site, "page", (first, last))
            yield _top(site, "exit_page", (first, last))


def measures_of(metrics: query_pb2.Metrics) -> tuple[object, ...]:
    """What an answer says, in a form that a recount can be brought into too."""
    duration = metrics.average_session_duration
    return (
        metrics.events,
        metrics.pageviews,
        metrics.visitors,
        metrics.sessions,
        round(metrics.bounce_rate, 9),
        duration.seconds * 1_000_000 + duration.nanos // 1000,
        metrics.new_visitors,
    )


def _as_answered(counted: Measures) -> tuple[object, ...]:
    sessions = counted.sessions
    return (
        counted.events,
        counted.pageviews,
        counted.visitors,
        sessions,
        round(counted.bounces / sessions, 9) if sessions else 0.0,
        round(counted.duration_us / sessions) if sessions else 0,
        counted.new_visitors,
    )


def _overview(site: str, span: Span) -> Check:
    request = query_pb2.GetOverviewRequest(site=site, range=time_range(*span))
    return Check(
        f"overview of {_shown(span)}",
        lambda recount: _as_answered(recount.totals(*span)),
        lambda query: measures_of(query.GetOverview(request).metrics),
    )


def _timeseries(site: str, span: Span, interval: query_pb2.Interval.ValueType, step: timedelta) -> Iterator[Check]:
    floor = span[0] - (span[0] - datetime(1970, 1, 1, tzinfo=UTC)) % step
    while floor < span[1]:
        part = (max(floor, span[0]), min(floor + _BUCKETS_A_CALL * step, span[1]))
        starts = [part[0]]
        while (following := _next(starts[-1], floor, step)) < part[1]:
            starts.append(following)
        yield _buckets(site, interval, starts, part)
        floor += _BUCKETS_A_CALL * step


def _buckets(site: str, interval: query_pb2.Interval.ValueType, starts: list[datetime], span: Span) -> Check:
    request = query_pb2.GetTimeseriesRequest(site=site, range=time_range(*span), interval=interval)
    return Check(
        f"{query_pb2.Interval.Name(interval)} of {_shown(span)}",
        lambda recount: [_as_answered(one) for one in recount.per_bucket(starts, span[1])],
        lambda query: [measures_of(one.metrics) for one in query.GetTimeseries(request).buckets],
    )


def _next(instant: datetime, origin: datetime, step: timedelta) -> datetime:
    return instant + step - (instant - origin) % step


def _top(site: str, dimension: str, span: Span) -> Check:
    number = query_pb2.Dimension.Value(f"DIMENSION_{dimension.upper()}")
    request = query_pb2.GetTopRequest(site=site, range=time_range(*span), dimension=number, limit=MAX_ROWS)

    def counted(recount: Recount) -> object:
        rows = [(key, _as_answered(one)) for key, one in recount.per_key(dimension, *span).items()]
        return sorted(rows, key=lambda row: (-int(str(row[1][0])), row[0].encode()))[:MAX_ROWS]

    return Check(
        f"{dimension} of {_shown(span)}",
        counted,
        lambda query: [(row.key, measures_of(row.metrics)) for row in query.GetTop(request).rows],
    )


def _difference(what: str, counted: object, answered: object) -> str:
    if isinstance(counted, list) and isinstance(answered, list):
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
    return first, last


def _shown(span: Span) -> str:
    return f"{span[0].isoformat()} – {span[1].isoformat()}"
