"""A full dashboard: overview, hourly timeseries and five top lists, all with exact visitors.

It is read from the product through gRPC, and by plain SQL from any database that has the events. The SQL has less to
do: it counts events and visitors only, while the product's answer also has sessions, bounces, durations and new
visitors.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import grpc
from footfall.query.v1 import query_pb2
from footfall.type.v1 import time_range_pb2

from cli.connection import Connection
from common.dimensions import BROWSER, COUNTRY, PAGE, REFERRER, UTM_CAMPAIGN

TOPS = {"page": PAGE, "referrer": REFERRER, "country": COUNTRY, "browser": BROWSER, "utm_campaign": UTM_CAMPAIGN}
LIMIT = 10
REPORTS = ("overview", "timeseries", *(f"top {name}" for name in TOPS))

_SERVICE = "/footfall.query.v1.QueryService/"
_LARGEST_ANSWER = [("grpc.max_receive_message_length", 64 << 20)]

# The plain SQL counts events and distinct visitors: of the whole, of each hour, of the first keys.
_OVERVIEW = "SELECT count(*), count(DISTINCT visitor_id) FROM events WHERE {where}"
_TIMESERIES = """
SELECT date_trunc('hour', occurred_at) AS hour, count(*), count(DISTINCT visitor_id) FROM events WHERE {where}
GROUP BY 1 ORDER BY 1
"""
_TOP = """
SELECT {key} AS key, count(*), count(DISTINCT visitor_id) FROM events e WHERE {where} AND {key} IS NOT NULL
GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {limit}
"""


class Dashboard(NamedTuple):
    """The part of the answer that both ways give, for comparison."""

    overview: tuple[int, int]
    """Events and visitors."""
    hours: list[tuple[datetime, int, int]]
    """Start, events and visitors of each hour."""
    tops: dict[str, list[tuple[str, int, int]]]
    """Key, events and visitors of each row, by the name of the list."""


Span = tuple[datetime, datetime]
Ask = Callable[[], Any]


def statements(where: str) -> dict[str, str]:
    """The SQL of each report, for Postgres and DuckDB. `where` is the condition on the events."""
    found = {"overview": _OVERVIEW.format(where=where), "timeseries": _TIMESERIES.format(where=where)}
    for name, dimension in TOPS.items():
        found[f"top {name}"] = _TOP.format(where=where, key=dimension.sql, limit=LIMIT)
    return found


def read_statements(run: Callable[[str], list[tuple[Any, ...]]], where: str) -> tuple[Dashboard, dict[str, float]]:
    """The dashboard from plain SQL, and the seconds of each report."""
    answers, seconds = {}, {}
    for report, statement in statements(where).items():
        began = time.perf_counter()
        answers[report] = run(statement)
        seconds[report] = time.perf_counter() - began
    hours = [(_aware(start), events, visitors) for start, events, visitors in answers["timeseries"]]
    tops: dict[str, Any] = {name: answers[f"top {name}"] for name in TOPS}
    (events, visitors), *_ = answers["overview"]
    return Dashboard((events, visitors), hours, tops), seconds


class Client:
    """Reads the dashboard of one site from the query service, over one channel."""

    def __init__(self, connection: Connection, site: str, span: Span) -> None:
        self._channel = grpc.insecure_channel(connection.query, options=_LARGEST_ANSWER)
        self._metadata = (("authorization", f"Bearer {connection.admin_key}"),)
        wanted = time_range_pb2.TimeRange()
        wanted.start_time.FromDatetime(span[0])
        wanted.end_time.FromDatetime(span[1])
        hourly = query_pb2.INTERVAL_HOUR
        self.requests: dict[str, Any] = {
            "overview": query_pb2.GetOverviewRequest(site=site, range=wanted),
            "timeseries": query_pb2.GetTimeseriesRequest(site=site, range=wanted, interval=hourly),
        }
        for name, dimension in TOPS.items():
            number = query_pb2.Dimension.ValueType(dimension.number)
            self.requests[f"top {name}"] = query_pb2.GetTopRequest(
                site=site, range=wanted, dimension=number, limit=LIMIT
            )
        numbers = [query_pb2.Dimension.ValueType(dimension.number) for dimension in TOPS.values()]
        specs = [query_pb2.TopSpec(dimension=number, limit=LIMIT) for number in numbers]
        self._whole = query_pb2.GetDashboardRequest(site=site, range=wanted, interval=hourly, tops=specs)

    def ask(self, report: str) -> Any:
        """Calls one of the seven reports."""
        request = self.requests[report]
        return self._call(request, type(request).__name__.removesuffix("Request"))

    def ask_whole(self) -> query_pb2.GetDashboardResponse:
        """Reads all seven in one call of GetDashboard."""
        response: query_pb2.GetDashboardResponse = self._call(self._whole, "GetDashboard")
        return response

    def read(self) -> Dashboard:
        """The dashboard from the seven reports, in the form of `read_statements`."""
        overview, timeseries = self.ask("overview").metrics, self.ask("timeseries").buckets
        return Dashboard(
            (overview.events, overview.visitors),
            [
                (bucket.start_time.ToDatetime(UTC), bucket.metrics.events, bucket.metrics.visitors)
                for bucket in timeseries
                if bucket.metrics.events
            ],
            {
                name: [(row.key, row.metrics.events, row.metrics.visitors) for row in self.ask(f"top {name}").rows]
                for name in TOPS
            },
        )

    def close(self) -> None:
        """Closes the channel."""
        self._channel.close()

    def _call(self, request: Any, method: str) -> Any:
        response = getattr(query_pb2, f"{method}Response")
        call = self._channel.unary_unary(_SERVICE + method, type(request).SerializeToString, response.FromString)
        return call(request, metadata=self._metadata, timeout=120)


def odd_ends(span: Span) -> Span:
    """Nearly the same range, with bounds inside hours, so that both edges are read from raw events."""
    return span[0] + timedelta(minutes=17, seconds=3), span[1] - timedelta(minutes=23, seconds=5)


def _aware(instant: datetime) -> datetime:
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)
