"""Where the clock of an IANA zone cuts a range, found by walking from minute to minute."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

from tests.oracle.raw_events import DAY, MINUTE, SECOND

Label = Callable[[datetime], Any]

# What a bucket of each interval has in common, read off the zone's own clock.
CALENDARS: dict[str, Label] = {
    "INTERVAL_DAY": lambda local: local.date(),
    "INTERVAL_WEEK": lambda local: local.date() - timedelta(days=local.weekday()),
    "INTERVAL_MONTH": lambda local: date(local.year, local.month, 1),
}


@cache
def changes_of(zone: ZoneInfo) -> list[int]:
    """The UTC midnights before each change of the zone's clock since 2010."""
    midnights = [datetime(2010, 1, 1, tzinfo=UTC) + timedelta(days=day) for day in range(15 * 365)]
    changed = [
        one
        for one, other in pairwise(midnights)
        if one.astimezone(zone).utcoffset() != other.astimezone(zone).utcoffset()
    ]
    return [int(midnight.timestamp()) * SECOND for midnight in changed]


def cuts_of(zone: ZoneInfo, interval: str, start: int, end: int) -> list[int]:
    """The instants inside the range at which the zone's clock shows a whole hour, or a later day, week or month than
    ever before. Found by walking from minute to minute: since 2010 every change of a clock falls on one."""
    found: list[int] = []
    latest: Any = None
    for at in range(start // DAY * DAY - 2 * DAY, end, MINUTE):
        local = datetime.fromtimestamp(at // SECOND, UTC).astimezone(zone)
        if interval == "INTERVAL_HOUR":
            cut = local.minute == 0
        else:
            label = CALENDARS[interval](local)
            cut = latest is not None and label > latest
            latest = label if latest is None else max(label, latest)
        if cut and at > start:
            found.append(at)
    return found
