"""Plans a report's range: which part of it can be answered, and from which tables it is read."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import psycopg

from common.intervals import ceil_hour, floor_hour
from common.sites import Site
from query_svc.calendar import bucket_starts
from query_svc.effective_range import EffectiveRange, effective_range, floors_of
from query_svc.incomplete_hours import incomplete_hours, reads_raw
from query_svc.occupied import extent_of, within, without_empty
from query_svc.range_plan import Floors, RangePlan, plan_range
from query_svc.requests import Range

# Whether the part of an hour that a range leaves out holds any event at all.
_ANY_EVENT = """
SELECT EXISTS (
    SELECT FROM events e WHERE e.site_id = %(site_id)s AND e.occurred_at >= %(start)s AND e.occurred_at < %(end)s
)
"""

Connection = psycopg.Connection[Any]
NOTHING = RangePlan([], [], [])
"""The plan of a range that holds nothing."""


class Planned(NamedTuple):
    """The range that is answered, and the plan by which it is read."""

    range: EffectiveRange
    plan: RangePlan


def plan_whole(connection: Connection, site: Site, span: Range) -> Planned:
    """The range as one bucket."""
    return _planned(connection, site, [span[0]], span[1])


def plan_buckets(connection: Connection, site: Site, span: Range, interval: int, zone: ZoneInfo) -> Planned:
    """The range in buckets of the interval."""
    return _planned(connection, site, bucket_starts(interval, zone, *span), span[1])


def _planned(connection: Connection, site: Site, starts: Sequence[datetime], end: datetime) -> Planned:
    """Plans the buckets. If all events of an outer hour lie in the range, it is read as a whole hour. So for a range
    that ends "now" the raw events of the current hour are not read. Nor are days in which the site has nothing."""
    floors = floors_of(site)
    incomplete = incomplete_hours(connection, site.site_id, [*starts, end], floors.hours)
    found = effective_range(starts, end, floors, incomplete)
    if found.empty:
        return Planned(found, NOTHING)
    (first, *inner), end = found.starts, found.end
    if floor_hour(first) >= floors.hours and not _any_event(connection, site, floor_hour(first), first):
        first = floor_hour(first)
    if not _any_event(connection, site, end, ceil_hour(end)):
        end = ceil_hour(end)
    # Whether the answer is exact follows from the range alone, not from what the site has in it.
    if found.exact and incomplete and reads_raw(plan_range([first, *inner], end, floors), incomplete):
        found = found._replace(exact=False)
    return Planned(found, _plan_of_what_exists(connection, site.site_id, [first, *inner], end, floors))


def _plan_of_what_exists(
    connection: Connection, site_id: int, starts: Sequence[datetime], end: datetime, floors: Floors
) -> RangePlan:
    extent = extent_of(connection, site_id, floors)
    buckets = within(extent, starts, end) if extent else None
    if not (buckets and buckets.starts):
        return NOTHING
    plan = plan_range(buckets.starts, buckets.end, floors, buckets.first)
    return without_empty(connection, site_id, plan, floors.hours)


def _any_event(connection: Connection, site: Site, start: datetime, end: datetime) -> bool:
    if start == end:
        return False
    row = connection.execute(_ANY_EVENT, {"site_id": site.site_id, "start": start, "end": end}).fetchone()
    return row is not None and bool(row[0])
