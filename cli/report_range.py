"""The range of a report: parses its bounds, and finds those that are not given."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import typer
from footfall.query.v1 import query_pb2
from footfall.query.v1.query_pb2_grpc import QueryServiceStub
from footfall.type.v1.time_range_pb2 import TimeRange

# How far back the first event is searched. QueryService returns at most 10,000 buckets.
_DAYS_BACK = 9_000
_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)


def time_range(start: datetime, end: datetime) -> TimeRange:
    """The TimeRange [start, end). The times must be aware."""
    found = TimeRange()
    found.start_time.FromDatetime(start)
    found.end_time.FromDatetime(end)
    return found


def parse_zone(name: str) -> ZoneInfo:
    """The IANA time zone with the name. Raises typer.BadParameter if there is none."""
    try:
        return ZoneInfo(name)
    except (ValueError, KeyError, OSError):
        raise typer.BadParameter(f"{name!r} is no IANA time zone such as Europe/Berlin") from None


def parse_instant(text: str, zone: ZoneInfo) -> datetime:
    """An ISO 8601 date or time, in `zone` unless it has an offset. Raises typer.BadParameter."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f'{text!r} is not a date or time such as "2015-05-17T10:00"') from None
    return found if found.tzinfo else found.replace(tzinfo=zone)


def find_range(
    query: QueryServiceStub, site: str, start: datetime | None, end: datetime | None, days: int | None
) -> tuple[datetime, datetime] | None:
    """The range asked for, with missing bounds filled in; None if the site has no events to find them from.

    The default end is the whole hour after the newest event. The default start is `days` days before the end, else the
    hour of the first aggregated event of the last 9,000 days. With a start, `days` gives the end. Raises grpc.RpcError.
    """
    if start is not None and days is not None:
        return start, start + timedelta(days=days)
    if end is None:
        newest = _newest(query, site)
        # Raw events may be deleted while their rollups are kept, which may then reach up to the present.
        end = _next_hour(newest or datetime.now(UTC))
        if start is not None and end <= start:
            end = _next_hour(max(start, datetime.now(UTC)))
    if start is None:
        start = end - timedelta(days=days) if days is not None else _oldest(query, site, end)
    return None if start is None else (start, end)


def _newest(query: QueryServiceStub, site: str) -> datetime | None:
    events = query.ListEvents(query_pb2.ListEventsRequest(site=site, page_size=1)).events
    return events[0].occurred_at.ToDatetime(UTC) if events else None


def _oldest(query: QueryServiceStub, site: str, end: datetime) -> datetime | None:
    """The hour of the first aggregated event; its day if hour rows are no longer kept."""
    midnight = end.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    day = _first_bucket(query, site, midnight - _DAYS_BACK * _DAY, end, query_pb2.INTERVAL_DAY)
    if day is None:
        return None
    return _first_bucket(query, site, day, min(day + _DAY, end), query_pb2.INTERVAL_HOUR) or day


def _first_bucket(
    query: QueryServiceStub, site: str, start: datetime, end: datetime, interval: query_pb2.Interval.ValueType
) -> datetime | None:
    request = query_pb2.GetTimeseriesRequest(site=site, range=time_range(start, end), interval=interval)
    buckets = query.GetTimeseries(request).buckets
    return next((bucket.start_time.ToDatetime(UTC) for bucket in buckets if bucket.metrics.events), None)


def _next_hour(instant: datetime) -> datetime:
    return instant.astimezone(UTC).replace(minute=0, second=0, microsecond=0) + _HOUR
