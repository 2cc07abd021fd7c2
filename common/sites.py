"""A site as all services read it, and how it is found."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg.rows import class_row

from common.calls.call import about_site
from common.errors import site_not_found

DEFAULT_RETENTION_DAYS = 90

COLUMNS = (
    "s.site_id, s.slug, s.name, s.status, s.session_timeout_us, s.retention_days, s.raw_event_retention_days, "
    "s.hourly_rollup_retention_days, s.daily_rollup_retention_days, s.dedupe_retention_us, s.rollup_shard_count, "
    "s.allowed_property_keys, s.denied_property_keys, s.allowed_origins, s.max_events_per_second, s.raw_from, "
    "s.hours_from, s.days_from, s.created_at, s.updated_at"
)
"""The columns of `sites` (alias s) that make a Site, in its order."""

ACTIVE = 1
DISABLED = 2
DELETING = 3

# A site by its slug, and by its number.
_BY_SLUG = f"SELECT {COLUMNS} FROM sites s WHERE s.slug = %s"
_BY_ID = f"SELECT {COLUMNS} FROM sites s WHERE s.site_id = %s"


@dataclass(frozen=True, slots=True)
class Site:
    """A row of `sites`. Days are None where the setting is absent."""

    site_id: int
    slug: str
    name: str
    status: int
    session_timeout_us: int
    retention_days: int | None
    raw_event_retention_days: int | None
    hourly_rollup_retention_days: int | None
    daily_rollup_retention_days: int | None
    dedupe_retention_us: int
    rollup_shard_count: int
    allowed_property_keys: list[str]
    denied_property_keys: list[str]
    allowed_origins: list[str]
    max_events_per_second: int
    """0 = no limit."""
    raw_from: datetime | None
    """From when on raw events and sessions are whole. None = none has been deleted by cleanup."""
    hours_from: datetime | None
    """The same for hour rows."""
    days_from: datetime | None
    """The same for day rows."""
    created_at: datetime
    updated_at: datetime

    @property
    def raw_retention(self) -> timedelta:
        """How long raw events are kept."""
        return self.retentions[0]

    @property
    def retentions(self) -> tuple[timedelta, timedelta, timedelta | None]:
        """How long raw events with sessions, hour rows and day rows are kept; None = for ever."""
        shared = self.retention_days or DEFAULT_RETENTION_DAYS
        daily = self.daily_rollup_retention_days
        return (
            timedelta(days=self.raw_event_retention_days or shared),
            timedelta(days=self.hourly_rollup_retention_days or shared),
            None if daily is None else timedelta(days=daily),
        )

    @property
    def session_timeout(self) -> timedelta:
        """The longest gap inside a session."""
        return timedelta(microseconds=self.session_timeout_us)

    @property
    def dedupe_retention(self) -> timedelta:
        """For how long a repeated event is recognised as a duplicate."""
        return timedelta(microseconds=self.dedupe_retention_us)


def find_site(connection: psycopg.Connection[Any], slug: str, *, or_deleting: bool = False) -> Site:
    """The site with the slug. Raises CallError (NOT_FOUND) if there is none.

    A site that is being deleted is found only with `or_deleting`.
    """
    # Postgres has no text with a NUL character, and psycopg refuses to send one.
    site = None if "\0" in slug else _one(connection, _BY_SLUG, slug)
    if site is None or (site.status == DELETING and not or_deleting):
        raise site_not_found(slug)
    about_site(slug)
    return site


def site_of_id(connection: psycopg.Connection[Any], site_id: int) -> Site | None:
    """The site with the number, whatever its status; None if there is none."""
    return _one(connection, _BY_ID, site_id)


def _one(connection: psycopg.Connection[Any], statement: str, key: str | int) -> Site | None:
    with connection.cursor(row_factory=class_row(Site)) as cursor:
        return cursor.execute(statement, (key,)).fetchone()
