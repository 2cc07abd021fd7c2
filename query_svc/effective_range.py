"""What can still be answered of a range when old data has been deleted. Pure.

A bound inside an hour needs raw events on its sides; a bound inside a day hours or raw events; any other bound days,
hours or raw events. Where what a bound needs is gone, the bound moves outward to the next whole hour or day, so the
answer is of more than was asked and never silently of less. Inner bounds of a timeseries move back, and buckets that
become one are given as one. What has no rollups left is left out. No bound may lie inside an incomplete hour (one that
a visitor was erased from), for its raw events tell less than its rollups. The answer says what range it is of.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple

from common.intervals import ceil_day, ceil_hour, floor_day, floor_hour
from common.sites import Site
from query_svc.range_plan import NOTHING_GONE, Floors

_NEVER = NOTHING_GONE.raw


class EffectiveRange(NamedTuple):
    """Buckets that can be answered exactly."""

    starts: list[datetime]
    """Ascending; never empty."""
    end: datetime
    exact: bool
    """Whether they are the ones asked for."""

    @property
    def empty(self) -> bool:
        """Whether nothing of the range is left: its only bucket is [end, end)."""
        return self.starts[0] == self.end


def floors_of(site: Site) -> Floors:
    """From when on the site's data is whole. Raw events are counted from a whole hour on: where a part of an hour has
    gone, no event in the rest of it does not mean that there was none."""
    return Floors(
        ceil_hour(site.raw_from) if site.raw_from else _NEVER,
        ceil_hour(site.hours_from) if site.hours_from else _NEVER,
        ceil_day(site.days_from) if site.days_from else _NEVER,
    )


def effective_range(
    starts: Sequence[datetime], end: datetime, floors: Floors, incomplete: Collection[datetime] = ()
) -> EffectiveRange:
    """The buckets as far as they can be answered; the range is not empty and `starts` are ascending. `incomplete`
    are incomplete hours, at least those with a bound inside."""
    bounds = [*starts, end]
    if starts[0] >= max(floors) and not incomplete:
        return EffectiveRange([*starts], end, True)
    bottom = min(floors)
    moved: list[datetime] = []
    for number, bound in enumerate(bounds):
        # What lies before every floor is left out first: nothing has to move because of it.
        before = moved[-1] if moved else None
        moved.append(_moved(max(bound, bottom), before, floors, incomplete, last=number == len(starts)))
    kept = sorted(set(moved))
    if len(kept) == 1:
        return EffectiveRange([end], end, False)
    return EffectiveRange(kept[:-1], kept[-1], kept == bounds)


def _moved(
    bound: datetime, before: datetime | None, floors: Floors, incomplete: Collection[datetime], *, last: bool
) -> datetime:
    """Where the bound can be, next after `before` (None: it is the first)."""

    def needed(floor: datetime) -> datetime:
        # The first instant of the bound's own hour or day that a bucket beside it holds.
        return bound if before is None else max(before, floor)

    hour = floor_hour(bound)
    if bound != hour and (needed(hour) < floors.raw or hour in incomplete):
        bound = ceil_hour(bound) if last else hour
    day = floor_day(bound)
    if bound != day and needed(day) < min(floors.raw, floors.hours):
        bound = ceil_day(bound) if last else day
    return bound
