"""The reports: each takes a snapshot, a site and a checked request, and answers with its message."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
from footfall.query.v1 import query_pb2
from google.protobuf import json_format, struct_pb2

from common.sites import Site
from query_svc import wire
from query_svc.calendar import bucket_starts, zone_named
from query_svc.measure import NOTHING, measure_buckets, measure_keys
from query_svc.range_plan import RangePlan, ceil_hour, floor_hour, plan_range
from query_svc.requests import (
    Range,
    Ranking,
    comparison_range,
    ranking,
    rankings,
    required_range,
    required_text,
    row_limit,
)
from query_svc.sources import COUNTED

# Whether the part of an hour that a range leaves out holds any event at all.
_ANY_EVENT = """
SELECT EXISTS (
    SELECT FROM events e WHERE e.site_id = %(site_id)s AND e.occurred_at >= %(start)s AND e.occurred_at < %(end)s
)
"""

# What is acknowledged and not in the numbers: pending events, the oldest of them, and failed events.
_NOT_COUNTED = """
SELECT coalesce(sum(last_ord - first_ord + 1), 0)::bigint, min(received_at),
       (SELECT count(*) FROM failed_events f WHERE f.site_id = %(site_id)s)
FROM pending_batches WHERE site_id = %(site_id)s
"""

# The values of one property, from raw events. jsonb compares numbers as numbers.
_BREAKDOWN = f"""
SELECT e.properties -> %(property)s AS value, count(*) AS events, count(DISTINCT e.visitor_id) AS visitors
FROM events e
WHERE e.site_id = %(site_id)s AND e.occurred_at >= %(start)s AND e.occurred_at < %(end)s
  AND {{event_key}} = %(event_name)s AND e.properties ? %(property)s AND {COUNTED}
GROUP BY 1 ORDER BY 2 DESC, (e.properties -> %(property)s)::text COLLATE "C" LIMIT %(limit)s
"""

Connection = psycopg.Connection[Any]


def overview(
    connection: Connection, site: Site, request: query_pb2.GetOverviewRequest, now: datetime
) -> query_pb2.GetOverviewResponse:
    """GetOverview. Raises CallError for a request that makes no sense, like every report."""
    asked, compared = required_range(request), comparison_range(request)
    response = query_pb2.GetOverviewResponse(
        metrics=_metrics(connection, site, asked), metadata=_metadata(connection, site, asked, now)
    )
    if compared:
        response.comparison_metrics.CopyFrom(_metrics(connection, site, compared))
        response.comparison_metadata.CopyFrom(_metadata(connection, site, compared, now))
    return response


def timeseries(
    connection: Connection, site: Site, request: query_pb2.GetTimeseriesRequest, now: datetime
) -> query_pb2.GetTimeseriesResponse:
    """GetTimeseries."""
    asked, compared, zone = required_range(request), comparison_range(request), zone_named(request.time_zone)
    response = query_pb2.GetTimeseriesResponse(
        buckets=_buckets(connection, site, asked, request.interval, zone),
        metadata=_metadata(connection, site, asked, now),
        time_zone=zone.key,
    )
    if compared:
        response.comparison_buckets.extend(_buckets(connection, site, compared, request.interval, zone))
        response.comparison_metadata.CopyFrom(_metadata(connection, site, compared, now))
    return response


def top(
    connection: Connection, site: Site, request: query_pb2.GetTopRequest, now: datetime
) -> query_pb2.GetTopResponse:
    """GetTop."""
    asked = required_range(request)
    return query_pb2.GetTopResponse(
        rows=_top_rows(connection, site, asked, ranking(request)), metadata=_metadata(connection, site, asked, now)
    )


def dashboard(
    connection: Connection, site: Site, request: query_pb2.GetDashboardRequest, now: datetime
) -> query_pb2.GetDashboardResponse:
    """GetDashboard."""
    asked, compared, zone = required_range(request), comparison_range(request), zone_named(request.time_zone)
    lists = rankings(request)

    def over(span: Range) -> query_pb2.Dashboard:
        return query_pb2.Dashboard(
            metrics=_metrics(connection, site, span),
            buckets=_buckets(connection, site, span, request.interval, zone),
            tops=[
                query_pb2.TopList(dimension=spec.dimension, rows=_top_rows(connection, site, span, wanted))
                for spec, wanted in zip(request.tops, lists, strict=True)
            ],
            metadata=_metadata(connection, site, span, now),
        )

    return query_pb2.GetDashboardResponse(
        dashboard=over(asked), comparison=over(compared) if compared else None, time_zone=zone.key
    )


def property_breakdown(
    connection: Connection, site: Site, request: query_pb2.GetPropertyBreakdownRequest, now: datetime
) -> query_pb2.GetPropertyBreakdownResponse:
    """GetPropertyBreakdown."""
    start, end = required_range(request)
    parameters = {
        "site_id": site.site_id,
        "start": start,
        "end": end,
        "event_name": required_text("event_name", request.event_name),
        "property": required_text("property_key", request.property_key),
        "limit": row_limit(request.limit),
    }
    rows = connection.execute(_BREAKDOWN.format(event_key=wire.EVENT_KEY_SQL), parameters)
    return query_pb2.GetPropertyBreakdownResponse(
        rows=[
            query_pb2.PropertyRow(
                value=json_format.ParseDict(value, struct_pb2.Value()), events=events, visitors=visitors
            )
            for value, events, visitors in rows
        ],
        metadata=_metadata(connection, site, (start, end), now),
    )


def _metrics(connection: Connection, site: Site, span: Range) -> query_pb2.Metrics:
    start, end = span
    measured = measure_buckets(connection, site.site_id, _plan(connection, site, [start], end))
    return wire.metrics(*measured.get(0, (NOTHING, 0)))


def _buckets(
    connection: Connection, site: Site, span: Range, interval: int, zone: ZoneInfo
) -> list[query_pb2.TimeBucket]:
    start, end = span
    starts = bucket_starts(interval, zone, start, end)
    measured = measure_buckets(connection, site.site_id, _plan(connection, site, starts, end))
    return [wire.bucket(at, *measured.get(n, (NOTHING, 0))) for n, at in enumerate(starts)]


def _top_rows(connection: Connection, site: Site, span: Range, wanted: Ranking) -> list[query_pb2.TopRow]:
    start, end = span
    plan = _plan(connection, site, [start], end)
    rows = measure_keys(connection, site.site_id, wanted.dimension, plan, wanted.order, wanted.limit)
    if wanted.order is None:
        # The number of distinct visitors is known only once the sets are united, so all keys were read.
        rows = sorted(rows, key=lambda row: (-row[2], row[0].encode()))[: wanted.limit]
    return [wire.top_row(*row) for row in rows]


def _plan(connection: Connection, site: Site, starts: Sequence[datetime], end: datetime) -> RangePlan:
    """Plans the buckets; an outer hour whose every event lies in the range is read as a whole hour, so that
    a range ending "now" does not scan the running hour."""
    first, *inner = starts
    if not _any_event(connection, site, floor_hour(first), first):
        first = floor_hour(first)
    if not _any_event(connection, site, end, ceil_hour(end)):
        end = ceil_hour(end)
    return plan_range([first, *inner], end)


def _any_event(connection: Connection, site: Site, start: datetime, end: datetime) -> bool:
    if start == end:
        return False
    row = connection.execute(_ANY_EVENT, {"site_id": site.site_id, "start": start, "end": end}).fetchone()
    return row is not None and bool(row[0])


def _metadata(connection: Connection, site: Site, asked: Range, now: datetime) -> query_pb2.ReportMetadata:
    """`now` is an instant before the snapshot: what was acknowledged by then is in it, counted or pending."""
    row = connection.execute(_NOT_COUNTED, {"site_id": site.site_id}).fetchone()
    assert row is not None
    pending, oldest, failed = row
    return wire.metadata(asked, aggregated_through=oldest or now, pending=pending, failed=failed)
