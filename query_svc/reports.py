"""The reports: each takes a connection in a snapshot, a site and a request, and returns the response."""

from datetime import datetime
from typing import Any

import psycopg
from footfall.query.v1 import query_pb2
from google.protobuf import json_format, struct_pb2

from common.sites import Site
from query_svc import messages, report_sql
from query_svc.calendar import zone_named
from query_svc.effective_range import EffectiveRange, floors_of
from query_svc.incomplete_hours import any_incomplete
from query_svc.measure import NOTHING, measure_buckets
from query_svc.planning import Planned, plan_buckets, plan_whole
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
from query_svc.top_keys import first_keys

Connection = psycopg.Connection[Any]


def overview(
    connection: Connection, site: Site, request: query_pb2.GetOverviewRequest, now: datetime
) -> query_pb2.GetOverviewResponse:
    """GetOverview. Raises CallError for a request that is not valid, as every report does."""
    asked, compared = required_range(request), comparison_range(request)
    state = _state(connection, site, now)
    whole = plan_whole(connection, site, asked)
    response = query_pb2.GetOverviewResponse(
        metrics=_metrics(connection, site, whole), metadata=messages.metadata(whole.range, state)
    )
    if compared:
        whole = plan_whole(connection, site, compared)
        response.comparison_metrics.CopyFrom(_metrics(connection, site, whole))
        response.comparison_metadata.CopyFrom(messages.metadata(whole.range, state))
    return response


def timeseries(
    connection: Connection, site: Site, request: query_pb2.GetTimeseriesRequest, now: datetime
) -> query_pb2.GetTimeseriesResponse:
    """GetTimeseries."""
    asked, compared, zone = required_range(request), comparison_range(request), zone_named(request.time_zone)
    state = _state(connection, site, now)
    cut = plan_buckets(connection, site, asked, request.interval, zone)
    response = query_pb2.GetTimeseriesResponse(
        buckets=_buckets(connection, site, cut), metadata=messages.metadata(cut.range, state), time_zone=zone.key
    )
    if compared:
        cut = plan_buckets(connection, site, compared, request.interval, zone)
        response.comparison_buckets.extend(_buckets(connection, site, cut))
        response.comparison_metadata.CopyFrom(messages.metadata(cut.range, state))
    return response


def top(
    connection: Connection, site: Site, request: query_pb2.GetTopRequest, now: datetime
) -> query_pb2.GetTopResponse:
    """GetTop."""
    whole = plan_whole(connection, site, required_range(request))
    return query_pb2.GetTopResponse(
        rows=_top_rows(connection, site, whole, ranking(request)),
        metadata=messages.metadata(whole.range, _state(connection, site, now)),
    )


def dashboard(
    connection: Connection, site: Site, request: query_pb2.GetDashboardRequest, now: datetime
) -> query_pb2.GetDashboardResponse:
    """GetDashboard."""
    asked, compared, zone = required_range(request), comparison_range(request), zone_named(request.time_zone)
    lists = rankings(request)
    state = _state(connection, site, now)

    def over(span: Range) -> query_pb2.Dashboard:
        whole, cut = plan_whole(connection, site, span), plan_buckets(connection, site, span, request.interval, zone)
        return query_pb2.Dashboard(
            metrics=_metrics(connection, site, whole),
            buckets=_buckets(connection, site, cut),
            tops=[
                query_pb2.TopList(dimension=spec.dimension, rows=_top_rows(connection, site, whole, wanted))
                for spec, wanted in zip(request.tops, lists, strict=True)
            ],
            metadata=messages.metadata(whole.range, state, exact=cut.range.exact),
        )

    return query_pb2.GetDashboardResponse(
        dashboard=over(asked), comparison=over(compared) if compared else None, time_zone=zone.key
    )


def property_breakdown(
    connection: Connection, site: Site, request: query_pb2.GetPropertyBreakdownRequest, now: datetime
) -> query_pb2.GetPropertyBreakdownResponse:
    """GetPropertyBreakdown."""
    start, end = required_range(request)
    # Only raw events hold properties: the part of the range without raw events is left out.
    first = min(max(start, floors_of(site).raw), end)
    exact = first == start and not any_incomplete(connection, site.site_id, start, end)
    parameters = {
        "site_id": site.site_id,
        "start": first,
        "end": end,
        "event_name": required_text("event_name", request.event_name),
        "property": required_text("property_key", request.property_key),
        "limit": row_limit(request.limit),
    }
    rows = connection.execute(report_sql.PROPERTY_BREAKDOWN, parameters)
    return query_pb2.GetPropertyBreakdownResponse(
        rows=[
            query_pb2.PropertyRow(
                value=json_format.ParseDict(value, struct_pb2.Value()), events=events, visitors=visitors
            )
            for value, events, visitors in rows
        ],
        metadata=messages.metadata(EffectiveRange([first], end, exact), _state(connection, site, now)),
    )


def _metrics(connection: Connection, site: Site, whole: Planned) -> query_pb2.Metrics:
    measured = measure_buckets(connection, site.site_id, whole.plan)
    return messages.metrics(*measured.get(0, (NOTHING, 0)))


def _buckets(connection: Connection, site: Site, cut: Planned) -> list[query_pb2.TimeBucket]:
    if cut.range.empty:
        return []
    measured = measure_buckets(connection, site.site_id, cut.plan)
    of_bucket = {n: messages.metrics(*found) for n, found in measured.items()}
    nothing = messages.metrics(NOTHING, 0)
    return [messages.bucket(at, of_bucket.get(n, nothing)) for n, at in enumerate(cut.range.starts)]


def _top_rows(connection: Connection, site: Site, whole: Planned, wanted: Ranking) -> list[query_pb2.TopRow]:
    rows = first_keys(connection, site.site_id, wanted.dimension, whole.plan, wanted.order, wanted.limit)
    return [messages.top_row(*row) for row in rows]


def _state(connection: Connection, site: Site, now: datetime) -> messages.State:
    """How far the site is aggregated. `now` must be before the snapshot: then every event acknowledged by `now` is in
    the snapshot, aggregated or pending."""
    row = connection.execute(report_sql.STATE, {"site_id": site.site_id}).fetchone()
    assert row is not None
    pending, oldest, failed, rebuilding = row
    return messages.State(oldest or now, pending, failed, rebuilding)
