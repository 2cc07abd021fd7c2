"""What has expired: the rows that a site's retention settings say may go, by kind. Pure but for the SQL it holds.

Cut-offs are whole hours, for day rows whole days: a bucket is there whole or it is gone.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from common.db import DAY, HOUR
from common.dimensions import BY_NUMBER, OVERVIEW
from common.sites import Site
from common.timestamps import EPOCH

_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
_BEGINNING = datetime.min.replace(tzinfo=UTC)
_DIMENSIONS = (OVERVIEW.number, *BY_NUMBER)

# OFFSET 0 keeps each NOT EXISTS a probe for each row that a page looks at. As a join it is hashed, and then every
# expired row is read and sorted for each page.

# Aggregated events before the cut-off, oldest first.
_EVENTS = """
SELECT {what} FROM events e
WHERE e.site_id = %(site_id)s AND e.occurred_at < %(before)s
  AND NOT EXISTS (SELECT FROM pending_batches p WHERE p.site_id = %(site_id)s AND p.batch_id = e.batch_id
                    AND e.ord BETWEEN p.first_ord AND p.last_ord OFFSET 0)
  AND NOT EXISTS (SELECT FROM failed_events f WHERE f.site_id = %(site_id)s AND f.batch_id = e.batch_id
                    AND f.ord = e.ord OFFSET 0)
"""

# Sessions that ended before the cut-off.
_SESSIONS = """
SELECT {what} FROM sessions s
WHERE s.site_id = %(site_id)s AND s.started_at < %(before)s AND s.ended_at < %(before)s
"""

# Folded rows of one interval and dimension; an hour only once all its deltas are folded.
_HOURS = f"""
SELECT {{what}} FROM rollup_shards r
WHERE r.site_id = %(site_id)s AND r.interval = {HOUR} AND r.dimension = %(dimension)s AND r.shard = 0
  AND r.bucket_start < %(before)s
  AND NOT EXISTS (SELECT FROM rollup_shards d WHERE d.site_id = %(site_id)s AND d.dimension = %(dimension)s
                    AND d.bucket_start = r.bucket_start AND d.shard > 0 OFFSET 0)
"""
_DAYS = f"""
SELECT {{what}} FROM rollup_shards r
WHERE r.site_id = %(site_id)s AND r.interval = {DAY} AND r.dimension = %(dimension)s AND r.shard = 0
  AND r.bucket_start < %(before)s
"""

# Visitors seen in no bucket that is kept, and without a session that is kept.
_VISITORS = """
SELECT {what} FROM visitors v
WHERE v.site_id = %(site_id)s AND v.first_seen_at < %(before)s AND v.last_seen_at < %(before)s
  AND NOT EXISTS (SELECT FROM sessions s WHERE s.site_id = %(site_id)s AND s.visitor_no = v.visitor_no
                    AND (s.started_at >= %(closed)s OR s.ended_at >= %(closed)s) OFFSET 0)
"""


class Expired(NamedTuple):
    """One kind of row that expires."""

    name: str
    """Field of Page."""
    table: str
    select: str
    """Its rows, in the order of an index of `keys`."""
    keys: tuple[str, ...]
    """A time first; together they tell the rows apart."""
    parameters: dict[str, Any]
    floor: str = ""
    """Column of `sites` that moves behind what is deleted; "" = none."""
    unit: timedelta = _HOUR
    """What the floor is a whole number of."""


def expired(site: Site, now: datetime) -> list[Expired]:
    """What has expired at `now`, in the order in which it goes."""
    raw, hours, days = site.retentions
    before_raw, before_hours = _cut_off(now, raw, _HOUR), _cut_off(now, hours, _HOUR)
    # A session that ended within the timeout of the cut-off could still grow by an event behind it.
    closed = max(before_raw, _BEGINNING + site.session_timeout) - site.session_timeout
    kinds = [
        Expired(
            "events", "events", _EVENTS, ("e.occurred_at", "e.batch_id", "e.ord"), {"before": before_raw}, "raw_from"
        ),
        Expired(
            "sessions",
            "sessions",
            _SESSIONS,
            ("s.started_at", "s.visitor_no", "s.session_id"),
            {"before": closed},
            "raw_from",
        ),
        *_rollups("hourly_rollups", _HOURS, before_hours, "hours_from", _HOUR),
    ]
    if days is None:
        return kinds
    before_days = _cut_off(now, days, _DAY)
    return [
        *kinds,
        *_rollups("daily_rollups", _DAYS, before_days, "days_from", _DAY),
        Expired(
            "visitors",
            "visitors",
            _VISITORS,
            ("v.first_seen_at", "v.visitor_no"),
            {"before": min(closed, before_hours, before_days), "closed": closed},
        ),
    ]


def floor_to(instant: datetime, unit: timedelta) -> datetime:
    """The last whole unit at or before the instant."""
    return instant - (instant - EPOCH) % unit


def _cut_off(now: datetime, kept: timedelta, unit: timedelta) -> datetime:
    """The first whole unit that is kept; the beginning of time where it would lie before that."""
    return floor_to(max(now, _BEGINNING + kept) - kept, unit)


def _rollups(name: str, select: str, before: datetime, floor: str, unit: timedelta) -> list[Expired]:
    keys = ("r.bucket_start", "r.key")
    return [
        Expired(name, "rollup_shards", select, keys, {"before": before, "dimension": dimension}, floor, unit)
        for dimension in _DIMENSIONS
    ]
