"""The starts of the buckets of a timeseries, in any time zone. Pure."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

from footfall.query.v1 import query_pb2

from common.errors import Reason, invalid, quoted
from common.intervals import HOUR

MAX_BUCKETS = 10_000


def zone_named(name: str) -> ZoneInfo:
    """The IANA time zone; "" = UTC. Raises CallError for an unknown name."""
    if not name:
        return ZoneInfo("UTC")
    if name not in _zone_names():
        raise invalid(
            "time_zone",
            Reason.TIME_ZONE_UNKNOWN,
            f"{quoted(name)} is not an IANA time zone such as Europe/Berlin",
        )
    return ZoneInfo(name)


def bucket_starts(interval: int, zone: ZoneInfo, start: datetime, end: datetime) -> list[datetime]:
    """The starts (UTC) of the buckets of [start, end), ascending; the first is `start` itself.

    Raises CallError for an unknown interval and for more than 10,000 buckets.
    """
    if interval == query_pb2.INTERVAL_HOUR:
        boundaries = _hours(zone, start)
    elif interval == query_pb2.INTERVAL_DAY:
        boundaries = _days(zone, start, 1)
    elif interval == query_pb2.INTERVAL_WEEK:
        boundaries = _days(zone, start, 7)
    elif interval == query_pb2.INTERVAL_MONTH:
        boundaries = _months(zone, start)
    else:
        raise invalid("interval", Reason.VALUE_UNKNOWN, "must be HOUR, DAY, WEEK or MONTH")
    starts = [start]
    for boundary in boundaries:
        if boundary >= end:
            return starts
        if boundary > starts[-1]:
            starts.append(boundary)
            if len(starts) > MAX_BUCKETS:
                raise invalid(
                    "interval",
                    Reason.TOO_MANY_BUCKETS,
                    f"the range has more than {MAX_BUCKETS} buckets; choose a longer interval or a shorter range",
                )
    return starts


@cache
def _zone_names() -> frozenset[str]:
    return frozenset(available_timezones())


def _hours(zone: ZoneInfo, start: datetime) -> Iterator[datetime]:
    """Instants at which the zone's clock shows a whole hour, from the first one at or after `start`."""
    instant = known = start
    while True:
        while past := _past_the_hour(zone, instant):
            # Right after a change of the clock by half an hour, going back by the excess does not find a whole hour.
            earlier = instant - past
            instant = earlier if earlier > known and not _past_the_hour(zone, earlier) else earlier + HOUR
        yield instant
        known = instant
        instant += HOUR


def _past_the_hour(zone: ZoneInfo, instant: datetime) -> timedelta:
    local = instant.astimezone(zone)
    return timedelta(minutes=local.minute, seconds=local.second, microseconds=local.microsecond)


def _days(zone: ZoneInfo, start: datetime, step: int) -> Iterator[datetime]:
    """Midnights of every day (step 1) or every Monday (step 7), from one at or before `start`."""
    day = start.astimezone(zone).date()
    if step == 7:
        day -= timedelta(days=day.weekday())
    while True:
        yield _midnight(zone, day)
        day += timedelta(days=step)


def _months(zone: ZoneInfo, start: datetime) -> Iterator[datetime]:
    day = start.astimezone(zone).date().replace(day=1)
    while True:
        yield _midnight(zone, day)
        day = (day + timedelta(days=31)).replace(day=1)


def _midnight(zone: ZoneInfo, day: date) -> datetime:
    """The first instant of the local day. If a change of the clock skips midnight, it is the instant of the change."""
    return datetime.combine(day, time(0), zone).astimezone(UTC)
