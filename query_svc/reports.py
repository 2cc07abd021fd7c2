"""The reports: each takes a snapshot, a site and a checked request, and answers with its message."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import psycopg
from footfall.query.v1 import query_pb2
from google.protobuf import json_format, struct_pb2

from common.sites import Site
from query_svc import wire
from query_svc.answerable import Answerable, answerable, floors_of
from query_svc.calendar import bucket_starts, zone_named
from query_svc.erased import any_erased, erased_hours, reads_raw
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

# What is acknowledged and not in the numbers: pending events, the oldest of them, and failed events; and whether a
# rebuild (see admin_svc/rebuild.py) is about to empty the rollups.
_STATE = """
SELECT coalesce(sum(last_ord - first_ord + 1), 0)::bigint, min(received_at),
       (SELECT count(*) FROM failed_events f WHERE f.site_id = %(site_id)s),
       EXISTS (SELECT FROM rebuilds r WHERE r.site_id = %(site_id)s AND r.phase < 3)
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
    state = _state(connection, site, now)
    whole = _whole(connection, site, asked)
    response = query_pb2.GetOverviewResponse(
        metrics=_metrics(connection, site, whole), metadata=wire.metadata(whole.answerable, state)
    )
    if compared:
        whole = _whole(connection, site, compared)
        response.comparison_metrics.CopyFrom(_metrics(connection, site, whole))
        response.comparison_metadata.CopyFrom(wire.metadata(whole.answerable, state))
    return response


def timeseries(
    connection: Connection, site: Site, request: query_pb2.GetTimeseriesRequest, now: datetime
) -> query_pb2.GetTimeseriesResponse:
    """GetTimeseries."""
    asked, compared, zone = required_range(request), comparison_range(request), zone_named(request.time_zone)
    state = _state(connection, site, now)
    cut = _cut(connection, site, asked, request.interval, zone)
    response = query_pb2.GetTimeseriesResponse(
        buckets=_buckets(connection, site, cut), metadata=wire.metadata(cut.answerable, state), time_zone=zone.key
    )
    if compared:
        cut = _cut(connection, site, compared, request.interval, zone)
        response.comparison_buckets.extend(_buckets(connection, site, cut))
        response.comparison_metadata.CopyFrom(wire.metadata(cut.answerable, state))
    return response


def top(
    connection: Connection, site: Site, request: query_pb2.GetTopRequest, now: datetime
) -> query_pb2.GetTopResponse:
    """GetTop."""
    whole = _whole(connection, site, required_range(request))
    return query_pb2.GetTopResponse(
        rows=_top_rows(connection, site, whole, ranking(request)),
        metadata=wire.metadata(whole.answerable, _state(connection, site, now)),
    )


def dashboard(
    connection: Connection, site: Site, request: query_pb2.GetDashboardRequest, now: datetime
) -> query_pb2.GetDashboardResponse:
    """GetDashboard."""
    asked, compared, zone = required_range(request), comparison_range(request), zone_named(request.time_zone)
    lists = rankings(request)
    state = _state(connection, site, now)

    def over(span: Range) -> query_pb2.Dashboard:
        whole, cut = _whole(connection, site, span), _cut(connection, site, span, request.interval, zone)
        return query_pb2.Dashboard(
            metrics=_metrics(connection, site, whole),
            buckets=_buckets(connection, site, cut),
            tops=[
                query_pb2.TopList(dimension=spec.dimension, rows=_top_rows(connection, site, whole, wanted))
                for spec, wanted in zip(request.tops, lists, strict=True)
            ],
            metadata=wire.metadata(whole.answerable, state, exact=cut.answerable.exact),
        )

    return query_pb2.GetDashboardResponse(
        dashboard=over(asked), comparison=over(compared) if compared else None, time_zone=zone.key
    )


def property_breakdown(
    connection: Connection, site: Site, request: query_pb2.GetPropertyBreakdownRequest, now: datetime
) -> query_pb2.GetPropertyBreakdownResponse:
    """GetPropertyBreakdown."""
    start, end = required_range(request)
    # Only raw events hold properties: what of the range has none any more is left out.
    first = min(max(start, floors_of(site).raw), end)
    exact = first == start and not any_erased(connection, site.site_id, start, end)
    parameters = {
        "site_id": site.site_id,
        "start": first,
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
        metadata=wire.metadata(Answerable([first], end, exact), _state(connection, site, now)),
    )


class _Planned(NamedTuple):
    """What is answered, and how it is read."""

    answerable: Answerable
    plan: RangePlan


def _metrics(connection: Connection, site: Site, whole: _Planned) -> query_pb2.Metrics:
    measured = measure_buckets(connection, site.site_id, whole.plan)
    return wire.metrics(*measured.get(0, (NOTHING, 0)))


def _buckets(connection: Connection, site: Site, cut: _Planned) -> list[query_pb2.TimeBucket]:
    if cut.answerable.empty:
        return []
    measured = measure_buckets(connection, site.site_id, cut.plan)
    return [wire.bucket(at, *measured.get(n, (NOTHING, 0))) for n, at in enumerate(cut.answerable.starts)]


def _top_rows(connection: Connection, site: Site, whole: _Planned, wanted: Ranking) -> list[query_pb2.TopRow]:
    rows = measure_keys(connection, site.site_id, wanted.dimension, whole.plan, wanted.order, wanted.limit)
    if wanted.order is None:
        # The number of distinct visitors is known only once the sets are united, so all keys were read.
        rows = sorted(rows, key=lambda row: (-row[2], row[0].encode()))[: wanted.limit]
    return [wire.top_row(*row) for row in rows]


def _whole(connection: Connection, site: Site, span: Range) -> _Planned:
    """The range as one bucket."""
    return _planned(connection, site, [span[0]], span[1])


def _cut(connection: Connection, site: Site, span: Range, interval: int, zone: ZoneInfo) -> _Planned:
    """The range in buckets of the interval."""
    return _planned(connection, site, bucket_starts(interval, zone, *span), span[1])


def _planned(connection: Connection, site: Site, starts: Sequence[datetime], end: datetime) -> _Planned:
    """Plans the buckets; an outer hour whose every event lies in the range is read as a whole hour, so that
    a range ending "now" does not scan the running hour."""
    floors = floors_of(site)
    erased = erased_hours(connection, site.site_id, [*starts, end], floors.hours)
    found = answerable(starts, end, floors, erased)
    if found.empty:
        return _Planned(found, RangePlan([], [], []))
    (first, *inner), end = found.starts, found.end
    if floor_hour(first) >= floors.hours and not _any_event(connection, site, floor_hour(first), first):
        first = floor_hour(first)
    if not _any_event(connection, site, end, ceil_hour(end)):
        end = ceil_hour(end)
    plan = plan_range([first, *inner], end, floors)
    if found.exact and reads_raw(plan, erased):
        found = found._replace(exact=False)
    return _Planned(found, plan)


def _any_event(connection: Connection, site: Site, start: datetime, end: datetime) -> bool:
    if start == end:
        return False
    row = connection.execute(_ANY_EVENT, {"site_id": site.site_id, "start": start, "end": end}).fetchone()
    return row is not None and bool(row[0])


def _state(connection: Connection, site: Site, now: datetime) -> wire.State:
    """`now` is an instant before the snapshot: what was acknowledged by then is in it, counted or pending."""
    row = connection.execute(_STATE, {"site_id": site.site_id}).fetchone()
    assert row is not None
    pending, oldest, failed, rebuilding = row
    return wire.State(oldest or now, pending, failed, rebuilding)
