"""The rows that have passed a site's retention, by kind. Nothing is executed here.

Cut-offs are whole hours, for day rows whole days, so a bucket is deleted as a whole.
"""

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from common.aggregated import is_aggregated
from common.dimensions import BY_NUMBER, OVERVIEW
from common.intervals import DAY, HOUR, RollupInterval, floor
from common.sites import Site

_BEGINNING = datetime.min.replace(tzinfo=UTC)
_DIMENSIONS = (OVERVIEW.number, *BY_NUMBER)

# OFFSET 0 makes each NOT EXISTS an index probe per row that a chunk looks at. As a join it would be hashed, and every
# chunk would read and sort all expired rows.

# Aggregated events before the cut-off, oldest first.
_EVENTS = f"""
SELECT {{what}} FROM events e
WHERE e.site_id = %(site_id)s AND e.occurred_at < %(before)s AND {is_aggregated("e", probed=True)}
"""

# Sessions that ended before the cut-off.
_SESSIONS = """
SELECT {what} FROM sessions s
WHERE s.site_id = %(site_id)s AND s.started_at < %(before)s AND s.ended_at < %(before)s
"""

# Compacted hour rows of one dimension, only of hours without deltas; and its day rows.
_HOURS = f"""
SELECT {{what}} FROM rollup_shards r
WHERE r.site_id = %(site_id)s AND r.interval = {RollupInterval.HOUR} AND r.dimension = %(dimension)s AND r.delta_no = 0
  AND r.bucket_start < %(before)s
  AND NOT EXISTS (SELECT FROM rollup_shards d WHERE d.site_id = %(site_id)s AND d.dimension = %(dimension)s
                    AND d.bucket_start = r.bucket_start AND d.delta_no > 0 OFFSET 0)
"""
_DAYS = f"""
SELECT {{what}} FROM rollup_shards r
WHERE r.site_id = %(site_id)s AND r.interval = {RollupInterval.DAY} AND r.dimension = %(dimension)s AND r.delta_no = 0
  AND r.bucket_start < %(before)s
"""

# A compacted row of an interval and any dimension.
_ANY_ROLLUP = """
SELECT 1 FROM rollup_shards r
WHERE r.site_id = %(site_id)s AND r.interval = %(interval)s AND r.dimension = ANY(%(dimensions)s) AND r.delta_no = 0
  AND r.bucket_start < %(before)s
LIMIT 1
"""

# Visitors who were not seen in any bucket that is kept and have no session that is kept.
_VISITORS = """
SELECT {what} FROM visitors v
WHERE v.site_id = %(site_id)s AND v.first_seen_at < %(before)s AND v.last_seen_at < %(before)s
  AND NOT EXISTS (SELECT FROM sessions s WHERE s.site_id = %(site_id)s AND s.visitor_no = v.visitor_no
                    AND (s.started_at >= %(closed)s OR s.ended_at >= %(closed)s) OFFSET 0)
"""


class Expired(NamedTuple):
    """One kind of row that expires."""

    name: str
    """The field of Expirations."""
    table: str
    select: str
    """Selects the rows; `{what}` is what is selected. An index has the order of `keys`."""
    keys: tuple[str, ...]
    """The first is a time. Together they are unique among the rows."""
    parameters: dict[str, Any]
    floor: str = ""
    """The floor, a column of `sites`, that moves past what is deleted; "" = none."""
    unit: timedelta = HOUR
    """The floor is a whole number of these since 1970."""


def expired(site: Site, now: datetime) -> list[Expired]:
    """The kinds of rows that have expired at `now`, in the order in which they are deleted."""
    raw, hours, days = site.retentions
    before_raw, before_hours = _cut_off(now, raw, HOUR), _cut_off(now, hours, HOUR)
    # A session that ended less than the timeout before the cut-off could still grow by an event after the cut-off.
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
        *_rollups("hourly_rollups", _HOURS, before_hours, "hours_from", HOUR),
    ]
    if days is None:
        return kinds
    before_days = _cut_off(now, days, DAY)
    return [
        *kinds,
        *_rollups("daily_rollups", _DAYS, before_days, "days_from", DAY),
        Expired(
            "visitors",
            "visitors",
            _VISITORS,
            ("v.first_seen_at", "v.visitor_no"),
            {"before": min(closed, before_hours, before_days), "closed": closed},
        ),
    ]


def probes_of(site: Site, now: datetime) -> list[tuple[str, dict[str, Any]]]:
    """Statements, and their parameters but the site's, of which one finds a row if the site has rows that have expired.

    They may find one also where everything that has expired must stay for now, such as pending events.
    """
    probes = []
    for kind in expired(site, now):
        if kind.table != "rollup_shards":
            statement = f"{kind.select.format(what='1')} ORDER BY {', '.join(kind.keys)} LIMIT 1"
            probes.append((statement, kind.parameters))
        elif kind.parameters["dimension"] == OVERVIEW.number:
            # One probe for all dimensions.
            interval = RollupInterval.DAY if kind.unit == DAY else RollupInterval.HOUR
            parameters = {"interval": int(interval), "dimensions": list(_DIMENSIONS)}
            probes.append((_ANY_ROLLUP, {**kind.parameters, **parameters}))
    return probes


def _cut_off(now: datetime, kept: timedelta, unit: timedelta) -> datetime:
    """The start of the first unit that is kept; not before the earliest time that datetime supports."""
    return floor(max(now, _BEGINNING + kept) - kept, unit)


def _rollups(name: str, select: str, before: datetime, floor: str, unit: timedelta) -> list[Expired]:
    keys = ("r.bucket_start", "r.key")
    return [
        Expired(name, "rollup_shards", select, keys, {"before": before, "dimension": dimension}, floor, unit)
        for dimension in _DIMENSIONS
    ]
