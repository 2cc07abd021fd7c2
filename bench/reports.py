"""How long reports take whose ranges, keys or buckets are many and whose events are few.

    python -m bench.reports [--scale 0.1] [--json FILE]

One site has 1,501 events on 1,001 pages from 1971 to 2026, one has none, and one has 250,000 events on 200,000 pages
within 30 days; only the last is scaled. Every report is asked through gRPC; times are medians of warm runs.
"""

import statistics
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import grpc
from footfall.query.v1 import query_pb2, query_pb2_grpc
from footfall.type.v1 import time_range_pb2

from bench.command_line import main, say
from bench.dashboard import Span
from bench.figures import Figure
from bench.own_suite import Stage, open_stage, peak_memory
from bench.wide_site import load_few_events, load_many_keys
from common.dimensions import BROWSER, COUNTRY, ENTRY_PAGE, EVENT, EXIT_PAGE, PAGE, REFERRER

PART = "reports"
EVENTS = 250_000
KEYS = 200_000
FEW_EVENTS_MS = 300.0
TOP_VISITORS_MS = 1_000.0
DASHBOARD_MS = 1_500.0
AT_ONCE = 8

_ROUNDS = 3
_ONCE_MS = 5_000.0
_MOST_ROWS = 1_000
_BUCKETS = 9_999
"""Of a range that begins at midnight UTC; where that is within a bucket of the zone, there is one more."""
_TIMEOUT_SECONDS = 120
_LARGEST_ANSWER = [("grpc.max_receive_message_length", 64 << 20)]
_TOPS = (PAGE, ENTRY_PAGE, EXIT_PAGE, REFERRER, COUNTRY, BROWSER, EVENT)
_BY_VISITORS = query_pb2.ORDER_BY_VISITORS
_BY_EVENTS = query_pb2.ORDER_BY_EVENTS

Ask = Callable[[], object]


def measure(scale: float) -> list[Figure]:
    """Loads three sites into a suite of its own and measures."""
    with open_stage() as stage:
        for slug in ("few", "none", "many"):
            stage.create_site(slug)
        with stage.database() as connection:
            span = load_few_events(connection, stage.site_id("few"))
            load_many_keys(connection, stage.site_id("many"), round(EVENTS * scale), round(KEYS * scale))
            connection.execute("VACUUM ANALYZE")
        say("reports: sites loaded")
        return [*_few_events(stage, span), *_many_keys(stage)]


def _few_events(stage: Stage, span: Span) -> list[Figure]:
    found = []
    for site in ("few", "none"):
        for name, ask in _reports_of_any_range(Reports(stage, site), span).items():
            found.append(Figure(PART, f"{site}: {name}", _milliseconds(ask), "ms", FEW_EVENTS_MS, at_least=False))
            say(f"{found[-1].name}: {found[-1].value:,.0f} ms")
    return found


def _reports_of_any_range(reports: "Reports", span: Span) -> dict[str, Ask]:
    """By name: the longest ranges, most buckets and most rows that can be asked for."""
    hours = (datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC) + timedelta(hours=_BUCKETS))
    days = (span[1] - timedelta(days=_BUCKETS), span[1])
    hour, day = query_pb2.INTERVAL_HOUR, query_pb2.INTERVAL_DAY
    return {
        "1,000 pages by events": lambda: reports.top(span, PAGE.number, _BY_EVENTS, _MOST_ROWS),
        "1,000 exit pages by visitors": lambda: reports.top(span, EXIT_PAGE.number, _BY_VISITORS, _MOST_ROWS),
        "10,000 hours": lambda: reports.timeseries(hours, hour, ""),
        "10,000 hours of Asia/Kolkata": lambda: reports.timeseries(hours, hour, "Asia/Kolkata"),
        "10,000 days of America/New_York": lambda: reports.timeseries(days, day, "America/New_York"),
        "10,000 days of Asia/Kolkata": lambda: reports.timeseries(days, day, "Asia/Kolkata"),
        "dashboard of 10,000 days, 1,000 rows a list": lambda: reports.dashboard(days, day, _MOST_ROWS),
    }


def _many_keys(stage: Stage) -> list[Figure]:
    reports = Reports(stage, "many")
    span = (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 31, tzinfo=UTC))
    found = []
    for dimension in (PAGE, EXIT_PAGE):
        for order, metric in ((_BY_VISITORS, "visitors"), (_BY_EVENTS, "events")):
            spent = _milliseconds(partial(reports.top, span, dimension.number, order, 10))
            name = f"top 10 of {dimension.column} by {metric}"
            found.append(Figure(PART, f"many: {name}", spent, "ms", TOP_VISITORS_MS, at_least=False))
            say(f"{found[-1].name}: {spent:,.0f} ms")
    for order, metric in ((_BY_EVENTS, "events"), (_BY_VISITORS, "visitors")):
        spent = _milliseconds(partial(reports.dashboard, span, query_pb2.INTERVAL_HOUR, 10, order))
        name = f"many: dashboard of seven lists by {metric}"
        found.append(Figure(PART, name, spent, "ms", DASHBOARD_MS, at_least=False))
        say(f"{name}: {spent:,.0f} ms")
    with peak_memory([stage.service_pid("query")]) as peaks:
        callers = [
            threading.Thread(target=reports.top, args=(span, PAGE.number, _BY_VISITORS, 10)) for _ in range(AT_ONCE)
        ]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    found.append(Figure(PART, f"peak RSS of the query process, {AT_ONCE} by visitors at once", peaks[0], "MB"))
    return found


class Reports:
    """Asks one site's reports of the query service over one channel."""

    def __init__(self, stage: Stage, site: str) -> None:
        self._stub = query_pb2_grpc.QueryServiceStub(_channel(stage))
        self._site = site
        self._call = {
            "metadata": (("authorization", f"Bearer {stage.connection.admin_key}"),),
            "timeout": _TIMEOUT_SECONDS,
        }

    def top(self, span: Span, dimension: int, order: query_pb2.OrderBy.ValueType, limit: int) -> Any:
        """GetTop."""
        request = query_pb2.GetTopRequest(
            site=self._site,
            range=_range(span),
            dimension=query_pb2.Dimension.ValueType(dimension),
            order_by=order,
            limit=limit,
        )
        return self._stub.GetTop(request, **self._call)

    def timeseries(self, span: Span, interval: query_pb2.Interval.ValueType, zone: str) -> Any:
        """GetTimeseries."""
        request = query_pb2.GetTimeseriesRequest(site=self._site, range=_range(span), interval=interval, time_zone=zone)
        return self._stub.GetTimeseries(request, **self._call)

    def dashboard(
        self,
        span: Span,
        interval: query_pb2.Interval.ValueType,
        limit: int,
        order: query_pb2.OrderBy.ValueType = _BY_EVENTS,
    ) -> Any:
        """GetDashboard with a list of each dimension that the sites have."""
        numbers = [query_pb2.Dimension.ValueType(dimension.number) for dimension in _TOPS]
        request = query_pb2.GetDashboardRequest(
            site=self._site,
            range=_range(span),
            interval=interval,
            tops=[query_pb2.TopSpec(dimension=number, limit=limit, order_by=order) for number in numbers],
        )
        return self._stub.GetDashboard(request, **self._call)


def _channel(stage: Stage) -> Any:
    return grpc.insecure_channel(stage.connection.query, options=_LARGEST_ANSWER)


def _range(span: Span) -> time_range_pb2.TimeRange:
    wanted = time_range_pb2.TimeRange()
    wanted.start_time.FromDatetime(span[0])
    wanted.end_time.FromDatetime(span[1])
    return wanted


def _milliseconds(ask: Ask) -> float:
    """The median of warm runs; a report that takes over five seconds is asked once. One that is given up counts as long
    as it took until then."""
    spent: list[float] = []
    while len(spent) < 1 + _ROUNDS and (not spent or spent[-1] < _ONCE_MS):
        began = time.perf_counter()
        try:
            ask()
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
        spent.append((time.perf_counter() - began) * 1e3)
    return statistics.median(spent[1:] or spent)


if __name__ == "__main__":
    main(__doc__, measure)
