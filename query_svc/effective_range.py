"""The part of a range that can still be answered when old data has been deleted. Pure.

A bound inside an hour needs the raw events around it. A bound inside a day needs hour rows or raw events. Any other
bound needs day rows, hour rows or raw events. If they are gone, the bound moves outward to the next whole hour or day.
So the answer is of more than was asked, and not of less. Inner bounds of a timeseries move back, and buckets that
become one are returned as one. Only the part before every floor is left out. The answer says what range it is of.

The raw events of an incomplete hour (one that a visitor was erased from) hold less than its rollups. So no bound may
lie inside one. Where hour rows are gone, no bound may lie inside a day either if the range holds an incomplete hour of
that day: the hours around the bound would be read from raw events, but the day row holds all.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple

from common.intervals import HOUR, ceil_day, ceil_hour, floor_day, floor_hour
from common.sites import Site
from query_svc.range_plan import NOTHING_GONE, Floors

_NEVER = NOTHING_GONE.raw


class EffectiveRange(NamedTuple):
    """The buckets that can be answered exactly."""

    starts: list[datetime]
    """Ascending; never empty."""
    end: datetime
    exact: bool
    """Whether they are the ones asked for."""

    @property
    def empty(self) -> bool:
        """Whether nothing of the range is left. Its only bucket is then [end, end)."""
        return self.starts[0] == self.end


def floors_of(site: Site) -> Floors:
    """From when on the site's data is whole. A floor inside an hour counts from the next hour on: if a part of an hour
    is gone, the lack of events in the rest does not mean that the hour had none."""
    return Floors(
        ceil_hour(site.raw_from) if site.raw_from else _NEVER,
        ceil_hour(site.hours_from) if site.hours_from else _NEVER,
        ceil_day(site.days_from) if site.days_from else _NEVER,
    )


def effective_range(
    starts: Sequence[datetime], end: datetime, floors: Floors, incomplete: Collection[datetime] = ()
) -> EffectiveRange:
    """The buckets as far as they can be answered. The range must not be empty and `starts` must ascend. `incomplete`
    are incomplete hours: at least those with a bound inside, and those of the range before the floor of hour rows."""
    bounds = [*starts, end]
    if starts[0] >= max(floors) and not incomplete:
        return EffectiveRange([*starts], end, True)
    bottom = min(floors)
    whole = _days_to_read_whole(starts[0], end, floors, incomplete)
    moved: list[datetime] = []
    for number, bound in enumerate(bounds):
        # What lies before every floor is left out first, so that no bound has to move because of it.
        before = moved[-1] if moved else None
        last = number == len(starts)
        within = _moved(max(bound, bottom), before, floors, incomplete, last=last)
        moved.append(_out_of(within, whole, last=last))
    kept = sorted(set(moved))
    if len(kept) == 1:
        return EffectiveRange([end], end, False)
    return EffectiveRange(kept[:-1], kept[-1], kept == bounds)


def _days_to_read_whole(
    start: datetime, end: datetime, floors: Floors, incomplete: Collection[datetime]
) -> frozenset[datetime]:
    """The days that have an incomplete hour in the range without an hour row, and a day row."""
    lost = (hour for hour in incomplete if start < hour + HOUR and hour < min(end, floors.hours))
    return frozenset(day for hour in lost if (day := floor_day(hour)) >= floors.days)


def _out_of(bound: datetime, days: Collection[datetime], *, last: bool) -> datetime:
    """The bound, moved out of these days."""
    day = floor_day(bound)
    if bound == day or day not in days:
        return bound
    return ceil_day(bound) if last else day


def _moved(
    bound: datetime, before: datetime | None, floors: Floors, incomplete: Collection[datetime], *, last: bool
) -> datetime:
    """Where the bound moves to. `before` is the bound before it, already moved; None for the first."""

    def needed(floor: datetime) -> datetime:
        # The first instant of the bound's hour or day that one of the buckets beside the bound holds.
        return bound if before is None else max(before, floor)

    hour = floor_hour(bound)
    if bound != hour and (needed(hour) < floors.raw or hour in incomplete):
        bound = ceil_hour(bound) if last else hour
    day = floor_day(bound)
    if bound != day and needed(day) < min(floors.raw, floors.hours):
        bound = ceil_day(bound) if last else day
    return bound
