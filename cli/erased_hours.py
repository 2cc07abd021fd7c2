"""The incomplete hours, which `footfall verify` leaves out: a visitor was erased from them, so their raw events are
fewer than were aggregated."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import psycopg

_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)


class ErasedHours:
    """The incomplete hours of one site, ascending."""

    def __init__(self, hours: Iterable[tuple[datetime, bool]]) -> None:
        """Each hour, and whether its hour row may be gone."""
        found = tuple(hours)
        self.hours = tuple(hour for hour, _ in found)
        # Where hour rows are gone, a report joins the buckets of such a day.
        days = [hour.astimezone(UTC).replace(hour=0) for hour, gone in found if gone]
        self._spans = [*((hour, hour + _HOUR) for hour in self.hours), *((day, day + _DAY) for day in set(days))]

    @classmethod
    def read(cls, database: psycopg.Connection[tuple[object, ...]], site: str) -> "ErasedHours":
        """The hours of the site with the slug; none if there is no such site."""
        rows = database.execute(
            "SELECT h.hour, coalesce(h.hour < s.hours_from, false) FROM erased_hours h JOIN sites s USING (site_id) "
            "WHERE s.slug = %s ORDER BY h.hour",
            (site,),
        )
        return cls((hour, bool(gone)) for hour, gone in rows if isinstance(hour, datetime))

    def touch(self, start: datetime, end: datetime) -> bool:
        """Whether any of the hours overlaps [start, end), or its day where hour rows are gone."""
        return any(first < end and start < last for first, last in self._spans)
