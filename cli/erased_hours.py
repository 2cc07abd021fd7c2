"""The incomplete hours, which `footfall verify` leaves out: a visitor was erased from them, so their raw events are
fewer than were aggregated."""

from collections.abc import Iterable
from datetime import datetime, timedelta

import psycopg

_HOUR = timedelta(hours=1)


class ErasedHours:
    """The incomplete hours of one site, ascending."""

    def __init__(self, hours: Iterable[datetime]) -> None:
        self.hours = tuple(hours)

    @classmethod
    def read(cls, database: psycopg.Connection[tuple[object, ...]], site: str) -> "ErasedHours":
        """The hours of the site with the slug; none if there is no such site."""
        rows = database.execute(
            "SELECT h.hour FROM erased_hours h JOIN sites s USING (site_id) WHERE s.slug = %s ORDER BY h.hour", (site,)
        )
        return cls(hour for (hour,) in rows if isinstance(hour, datetime))

    def touch(self, start: datetime, end: datetime) -> bool:
        """Whether any of the hours overlaps [start, end)."""
        return any(hour < end and start < hour + _HOUR for hour in self.hours)
