"""A site some of whose old data has gone, as a cleanup leaves it; and what is left to answer from."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import psycopg

from query_svc.range_plan import Floors

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
_ORIGIN = datetime(1970, 1, 1, tzinfo=UTC)

# A session that an event may still reach which is not too old to come stays: it is not closed yet.
_DELETED = """
DELETE FROM events WHERE site_id = %(site_id)s AND occurred_at < %(raw_from)s;
DELETE FROM sessions s USING sites w WHERE w.site_id = %(site_id)s AND s.site_id = %(site_id)s
  AND s.ended_at < %(raw_from)s::timestamptz - w.session_timeout_us * interval '1 microsecond';
DELETE FROM rollup_shards WHERE site_id = %(site_id)s AND interval = 1 AND bucket_start < %(hours_from)s;
DELETE FROM rollup_shards WHERE site_id = %(site_id)s AND interval = 2 AND bucket_start < %(days_from)s;
UPDATE sites SET raw_from = %(raw_from)s, hours_from = %(hours_from)s, days_from = %(days_from)s
WHERE site_id = %(site_id)s
"""


def clean_up(
    connection: psycopg.Connection[Any],
    site_id: int,
    raw_from: datetime | None,
    hours_from: datetime | None = None,
    days_from: datetime | None = None,
) -> None:
    """Deletes what is older than each floor, if it is given, and sets the floors; there is no delta."""
    parameters = {"site_id": site_id, "raw_from": raw_from, "hours_from": hours_from, "days_from": days_from}
    for statement in _DELETED.split(";"):
        connection.execute(statement, parameters)


def readable(start: datetime, end: datetime, floors: Floors, incomplete: Collection[datetime] = ()) -> bool:
    """Whether what is left tells of [start, end): hour by hour, from raw events (not those of an incomplete hour), an
    hour row or a day row."""
    hour = start - (start - _ORIGIN) % HOUR
    while hour < end:
        first, last, day = max(start, hour), min(end, hour + HOUR), hour - (hour - _ORIGIN) % DAY
        by_raw = first >= floors.raw and hour not in incomplete
        by_hour = last - first == HOUR and hour >= floors.hours
        by_day = start <= day and day + DAY <= end and day >= floors.days
        if not (by_raw or by_hour or by_day):
            return False
        hour += HOUR
    return True


def all_readable(cuts: Sequence[datetime], floors: Floors, incomplete: Collection[datetime] = ()) -> bool:
    """Whether what is left tells of every bucket between two cuts."""
    return all(readable(start, end, floors, incomplete) for start, end in pairwise(cuts))
