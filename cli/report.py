"""`footfall report`: a site's numbers as a dashboard in the terminal."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, NamedTuple
from zoneinfo import ZoneInfo

import typer
from footfall.query.v1 import query_pb2
from footfall.query.v1.query_pb2_grpc import QueryServiceStub
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cli.charts import column_chart, horizontal_bar, row_chart
from cli.connection import DEFAULT_DATA_DIR, Connection, DataDir, printable
from cli.report_range import find_range, parse_instant, parse_zone, time_range

# From this many buckets on, the chart has columns and not rows.
UPRIGHT_BUCKETS = 15
WIDE_COLUMNS = 130


class _TopList(NamedTuple):
    title: str
    dimension: query_pb2.Dimension.ValueType
    measure: str = "events"
    order_by: query_pb2.OrderBy.ValueType = query_pb2.ORDER_BY_EVENTS


_TOP_LISTS = (
    _TopList("Pages", query_pb2.DIMENSION_PAGE),
    _TopList("Referrers", query_pb2.DIMENSION_REFERRER),
    _TopList("Entry pages", query_pb2.DIMENSION_ENTRY_PAGE, "sessions", query_pb2.ORDER_BY_SESSIONS),
    _TopList("Browsers", query_pb2.DIMENSION_BROWSER),
    _TopList("Operating systems", query_pb2.DIMENSION_OS),
    _TopList("Devices", query_pb2.DIMENSION_DEVICE),
    _TopList("Sources (utm_source)", query_pb2.DIMENSION_UTM_SOURCE),
    _TopList("Campaigns (utm_campaign)", query_pb2.DIMENSION_UTM_CAMPAIGN),
    _TopList("Countries", query_pb2.DIMENSION_COUNTRY),
)

_INTERVALS = (
    (timedelta(days=3), query_pb2.INTERVAL_HOUR, "hour", "%d %b %H:%M"),
    (timedelta(days=90), query_pb2.INTERVAL_DAY, "day", "%a %d %b"),
    (timedelta(weeks=90), query_pb2.INTERVAL_WEEK, "week", "%d %b %Y"),
    (timedelta.max, query_pb2.INTERVAL_MONTH, "month", "%b %Y"),
)


def report(
    site: Annotated[str, typer.Option(help="The site.")],
    start: Annotated[str, typer.Option(metavar="ISO", help="Start; default: the hour of the first event.")] = "",
    end: Annotated[str, typer.Option(metavar="ISO", help="End; default: the whole hour after the newest event.")] = "",
    days: Annotated[
        int | None, typer.Option(min=1, max=9000, help="Length in days, from --start or before the end.")
    ] = None,
    time_zone: Annotated[str, typer.Option(help="IANA time zone of days, and of times without an offset.")] = "UTC",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Rows of a top list.")] = 10,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Show a site's overview, its traffic over time and its top lists."""
    if start and end and days is not None:
        raise typer.BadParameter("--days goes with --start or --end, not with both")
    zone = parse_zone(time_zone)
    print_report(
        Connection.read(data_dir),
        site,
        start=parse_instant(start, zone) if start else None,
        end=parse_instant(end, zone) if end else None,
        days=days,
        zone=zone,
        limit=limit,
    )


def print_report(
    connection: Connection,
    site: str,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    days: int | None = None,
    zone: ZoneInfo | None = None,
    limit: int = 10,
) -> None:
    """Prints the dashboard. If the server refuses, prints the reason and raises typer.Exit(1)."""
    console = Console()
    zone = zone or ZoneInfo("UTC")
    with connection.open_query() as query:
        found = find_range(query, site, start, end, days)
        if found is None:
            console.print(Text(f"The site {site} has no events yet, or none of them is aggregated yet."))
            return
        overview = query.GetOverview(query_pb2.GetOverviewRequest(site=site, range=time_range(*found)))
        console.print(_overview(site, overview.metrics, _span(*found, zone)))
        if overview.metrics.events:
            console.print(_chart(query, site, *found, zone, console.width))
            lists = list(_top_lists(query, site, *found, overview.metrics, limit))
            console.print(_side_by_side(lists) if console.width >= WIDE_COLUMNS else Group(*lists))
        console.print(_footer(overview.metadata, zone))


def _overview(site: str, metrics: query_pb2.Metrics, span: str) -> Panel:
    numbers = {
        "events": f"{metrics.events:,}",
        "pageviews": f"{metrics.pageviews:,}",
        "visitors": f"{metrics.visitors:,}",
        "new visitors": f"{metrics.new_visitors:,}",
        "sessions": f"{metrics.sessions:,}",
        "bounce rate": f"{metrics.bounce_rate:.1%}",
        "avg. session": _duration(metrics.average_session_duration.ToTimedelta()),
    }
    grid = Table.grid(expand=True)
    for _ in numbers:
        grid.add_column(justify="center", no_wrap=True)
    grid.add_row(*(Text(value, style="bold") for value in numbers.values()))
    grid.add_row(*(Text(name, style="dim") for name in numbers))
    return Panel(grid, title=Text(f"{printable(site)} · {span}"), padding=1)


def _chart(
    query: QueryServiceStub, site: str, start: datetime, end: datetime, zone: ZoneInfo, width: int
) -> RenderableType:
    _, interval, unit, label = next(item for item in _INTERVALS if end - start <= item[0])
    request = query_pb2.GetTimeseriesRequest(
        site=site, range=time_range(start, end), interval=interval, time_zone=zone.key
    )
    buckets = query.GetTimeseries(request).buckets
    counts = [bucket.metrics.events for bucket in buckets]
    labels = [_local(bucket.start_time, zone).strftime(label) for bucket in buckets]
    chart: RenderableType
    if len(buckets) < UPRIGHT_BUCKETS:
        chart = row_chart(labels, counts, [bucket.metrics.visitors for bucket in buckets], ("events", "visitors"))
    else:
        chart = column_chart(labels, counts, max(width, 20))
    return Group(Text(f"\n Events per {unit}", style="bold"), chart)


def _top_lists(
    query: QueryServiceStub, site: str, start: datetime, end: datetime, whole: query_pb2.Metrics, limit: int
) -> Iterator[RenderableType]:
    """The tables of the lists that have rows."""
    for title, dimension, measure, order_by in _TOP_LISTS:
        request = query_pb2.GetTopRequest(
            site=site, range=time_range(start, end), dimension=dimension, limit=limit, order_by=order_by
        )
        if rows := query.GetTop(request).rows:
            yield _top_table(title, measure, rows, getattr(whole, measure))


def _top_table(title: str, measure: str, rows: Sequence[query_pb2.TopRow], whole: int) -> RenderableType:
    table = Table(box=None, expand=True, padding=(0, 1), header_style="dim")
    table.add_column(Text(title, style="bold not dim"), ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column("", width=16)
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column(measure, justify="right", no_wrap=True)
    table.add_column("visitors", justify="right", no_wrap=True)
    largest = max(getattr(row.metrics, measure) for row in rows)
    for row in rows:
        count = getattr(row.metrics, measure)
        table.add_row(
            Text(printable(row.key)),
            horizontal_bar(count, largest, width=16),
            f"{count / whole:.1%}" if whole else "",
            f"{count:,}",
            f"{row.metrics.visitors:,}",
        )
    return Padding(table, (1, 0, 0, 0))


def _side_by_side(tables: Sequence[RenderableType]) -> Table:
    grid = Table.grid(expand=True, padding=(0, 2))
    grid.add_column(ratio=1)
    grid.add_column(ratio=1)
    for index in range(0, len(tables), 2):
        grid.add_row(*tables[index : index + 2])
    return grid


def _footer(metadata: query_pb2.ReportMetadata, zone: ZoneInfo) -> Padding:
    effective = metadata.effective_range
    span = _span(effective.start_time.ToDatetime(UTC), effective.end_time.ToDatetime(UTC), zone)
    how = "exact" if metadata.exact else "not exact: data of the range has been deleted, or a rebuild is under way"
    lines = [f"Range: {span}, {how}."]
    if metadata.HasField("aggregated_through"):
        through = f"{_local(metadata.aggregated_through, zone):%Y-%m-%d %H:%M:%S %Z}"
        lines.append(f"All events received until {through} are in the numbers.")
    if metadata.pending_events:
        lines.append(f"{metadata.pending_events:,} events are pending.")
    return Padding(Text("\n".join(lines), style="dim"), (1, 1, 0, 1))


def _span(start: datetime, end: datetime, zone: ZoneInfo) -> str:
    first, last = start.astimezone(zone), end.astimezone(zone)
    return f"{first:%Y-%m-%d %H:%M} – {last:%Y-%m-%d %H:%M} {last:%Z}"


def _local(instant: Timestamp, zone: ZoneInfo) -> datetime:
    return instant.ToDatetime(UTC).astimezone(zone)


def _duration(length: timedelta) -> str:
    minutes, seconds = divmod(round(length.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02}m" if hours else f"{minutes}m {seconds:02}s" if minutes else f"{seconds}s"
