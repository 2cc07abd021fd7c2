"""The hours of which `footfall verify` can say nothing, because a visitor was erased: what raw events are left there
are fewer than were counted."""

from collections.abc import Iterable
from datetime import datetime, timedelta

import psycopg

_HOUR = timedelta(hours=1)


class ErasedHours:
    """The erased hours of one site, ascending."""

    def __init__(self, hours: Iterable[datetime]) -> None:
        self.hours = tuple(hours)

    @classmethod
    def read(cls, database: psycopg.Connection[tuple[object, ...]], site: str) -> "ErasedHours":
        """Those of the site of that slug; none if there is no such site."""
        rows = database.execute(
            "SELECT h.hour FROM erased_hours h JOIN sites s USING (site_id) WHERE s.slug = %s ORDER BY h.hour", (site,)
        )
        return cls(hour for (hour,) in rows if isinstance(hour, datetime))

    def touch(self, start: datetime, end: datetime) -> bool:
        """Whether any of them lies partly in [start, end)."""
        return any(hour < end and start < hour + _HOUR for hour in self.hours)
