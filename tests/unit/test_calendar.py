"""Buckets begin where the zone's own clock and calendar say, whatever its offsets do."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

import pytest
from footfall.query.v1 import query_pb2
from hypothesis import given
from hypothesis import strategies as st

from query_svc.calendar import MAX_BUCKETS, bucket_starts, zone_named

HOUR, DAY, WEEK, MONTH = (
    query_pb2.INTERVAL_HOUR,
    query_pb2.INTERVAL_DAY,
    query_pb2.INTERVAL_WEEK,
    query_pb2.INTERVAL_MONTH,
)
GRID = timedelta(seconds=30)
"""Since 1970 every whole local hour and every change of a clock falls on it."""
FIRST, LAST = datetime(1970, 1, 3, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)

zones = st.sampled_from(sorted(available_timezones() - {"localtime"})).map(ZoneInfo)


@cache
def changes_of(zone: ZoneInfo) -> list[datetime]:
    """Instants at which the zone's offset changes, to the grid."""
    found = []
    probes = [FIRST + timedelta(days=3) * number for number in range(8500)]
    for low, high in pairwise(probes):
        if low.astimezone(zone).utcoffset() != high.astimezone(zone).utcoffset():
            while high - low > GRID:
                middle = low + (high - low) // 2 // GRID * GRID
                if middle.astimezone(zone).utcoffset() == low.astimezone(zone).utcoffset():
                    low = middle
                else:
                    high = middle
            found.append(high)
    return found


@st.composite
def zoned_starts(draw: st.DrawFn) -> tuple[ZoneInfo, datetime]:
    """A zone, and an instant that is likely to lie shortly before a change of its clock."""
    zone = draw(zones)
    changes = changes_of(zone)
    near: bool = draw(st.booleans())
    if changes and near:
        before = st.sampled_from([timedelta(hours=2), timedelta(hours=30)])
        return zone, draw(st.sampled_from(changes)) - draw(st.timedeltas(timedelta(), draw(before)))
    naive = st.datetimes(FIRST.replace(tzinfo=None), LAST.replace(tzinfo=None))
    return zone, draw(naive).replace(tzinfo=UTC)


def instants(start: datetime, end: datetime) -> Iterator[datetime]:
    """The grid in [start, end)."""
    at = datetime.fromtimestamp(start.timestamp() // 30 * 30, UTC)
    while at < end:
        if at >= start:
            yield at
        at += GRID


def first_instants_of_days(zone: ZoneInfo, start: datetime, end: datetime) -> list[tuple[datetime, date]]:
    """Where the zone's calendar first shows a date, or a later one if that date was skipped."""
    found = []
    latest: date | None = None
    for at in instants(start - timedelta(days=1), end):
        day = at.astimezone(zone).date()
        if latest is None or day > latest:
            if latest is not None and at > start:
                found.append((at, day))
            latest = day
    return found


@given(zoned_starts(), st.timedeltas(timedelta(microseconds=1), timedelta(hours=10)))
def test_hours_begin_at_every_whole_hour_of_the_zones_clock(
    zoned: tuple[ZoneInfo, datetime], length: timedelta
) -> None:
    zone, start = zoned
    whole = []
    for at in instants(start, start + length):
        local = at.astimezone(zone)
        if at > start and (local.minute, local.second) == (0, 0):
            whole.append(at)
    assert bucket_starts(HOUR, zone, start, start + length) == [start, *whole]


@given(zoned_starts(), st.timedeltas(timedelta(microseconds=1), timedelta(days=4)))
def test_days_begin_where_the_zones_calendar_first_shows_them(
    zoned: tuple[ZoneInfo, datetime], length: timedelta
) -> None:
    zone, start = zoned
    firsts = [at for at, _ in first_instants_of_days(zone, start, start + length)]
    assert bucket_starts(DAY, zone, start, start + length) == [start, *firsts]


@given(zoned_starts(), st.timedeltas(timedelta(microseconds=1), timedelta(days=900)))
def test_weeks_and_months_begin_with_their_first_days(zoned: tuple[ZoneInfo, datetime], length: timedelta) -> None:
    """Of all days exactly the Mondays, exactly the firsts."""
    zone, start = zoned
    days = bucket_starts(DAY, zone, start, start + length)[1:]
    mondays = [day for day in days if day.astimezone(zone).weekday() == 0]
    firsts = [day for day in days if day.astimezone(zone).day == 1]
    assert bucket_starts(WEEK, zone, start, start + length) == [start, *mondays]
    assert bucket_starts(MONTH, zone, start, start + length) == [start, *firsts]


@given(zoned_starts(), st.sampled_from([HOUR, DAY, WEEK, MONTH]), st.timedeltas(GRID, timedelta(days=300)))
def test_starts_ascend_strictly_from_the_start_and_stay_before_the_end(
    zoned: tuple[ZoneInfo, datetime], interval: query_pb2.Interval.ValueType, length: timedelta
) -> None:
    zone, start = zoned
    starts = bucket_starts(interval, zone, start, start + length)
    assert starts[0] == start
    assert all(before < after for before, after in pairwise(starts))
    assert starts[-1] < start + length


def lengths(interval: query_pb2.Interval.ValueType, zone: str, start: str, end: str) -> list[float]:
    """The hours each bucket of a local range lasts."""
    bounds = [datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC) for text in (start, end)]
    starts = [*bucket_starts(interval, zone_named(zone), *bounds), bounds[1]]
    return [(after - before) / timedelta(hours=1) for before, after in pairwise(starts)]


@pytest.mark.parametrize(
    ("interval", "zone", "start", "end", "expected"),
    [
        (DAY, "Europe/Berlin", "2024-03-30", "2024-04-02", [24, 23, 24]),
        (DAY, "Europe/Berlin", "2024-10-26", "2024-10-29", [24, 25, 24]),
        (DAY, "Asia/Kolkata", "2024-03-30", "2024-04-01", [24, 24]),
        (HOUR, "Asia/Kathmandu", "2024-03-30T00:30", "2024-03-30T03:15", [0.5, 1, 1, 0.25]),
        (HOUR, "Australia/Lord_Howe", "2024-10-06T00:00", "2024-10-06T04:00", [1, 1.5, 1]),
        (HOUR, "Australia/Lord_Howe", "2024-04-07T00:00", "2024-04-07T04:00", [1, 1.5, 1, 1]),
        (HOUR, "Australia/Lord_Howe", "2024-10-06T01:15", "2024-10-06T04:00", [1.25, 1]),
        (HOUR, "Pacific/Chatham", "2024-09-29T01:00", "2024-09-29T05:00", [1, 1, 1]),
        (HOUR, "Pacific/Chatham", "2024-04-07T02:00", "2024-04-07T04:00", [1, 1, 1]),
        (HOUR, "Europe/Berlin", "2024-10-27T02:00", "2024-10-27T04:00", [1, 1, 1]),
        (DAY, "Antarctica/Troll", "2024-03-30", "2024-04-01", [24, 22]),
        (DAY, "Antarctica/Troll", "2024-10-26", "2024-10-28", [24, 26]),
        (DAY, "Australia/Lord_Howe", "2024-04-06", "2024-04-09", [24, 24.5, 24]),
        (DAY, "Pacific/Apia", "2011-12-29", "2012-01-01", [24, 24]),
        (DAY, "America/Sao_Paulo", "2018-11-03", "2018-11-06", [24, 23, 24]),
        (WEEK, "Europe/Berlin", "2024-03-20", "2024-04-03", [5 * 24, 167, 48]),
        (MONTH, "America/New_York", "2024-02-10", "2024-04-01", [20 * 24, 31 * 24 - 1]),
    ],
    ids=lambda value: value.replace("/", " ") if isinstance(value, str) else None,
)
def test_known_odd_days_have_their_known_lengths(
    interval: query_pb2.Interval.ValueType, zone: str, start: str, end: str, expected: list[float]
) -> None:
    assert lengths(interval, zone, start, end) == expected


def test_10000_buckets_are_the_most() -> None:
    """One more is refused before any of it is read."""
    end = FIRST + timedelta(hours=MAX_BUCKETS)
    assert len(bucket_starts(HOUR, zone_named(""), FIRST, end)) == MAX_BUCKETS
    with pytest.raises(Exception, match="TOO_MANY_BUCKETS"):
        bucket_starts(HOUR, zone_named(""), FIRST, end + timedelta(microseconds=1))
