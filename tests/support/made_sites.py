"""Sites that are in no database."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from common.sites import ACTIVE, Site

_NOW = datetime(2024, 1, 1, tzinfo=UTC)
_SITE = Site(
    site_id=1,
    slug="site",
    name="site",
    status=ACTIVE,
    session_timeout_us=1_800_000_000,
    retention_days=None,
    raw_event_retention_days=None,
    hourly_rollup_retention_days=None,
    daily_rollup_retention_days=None,
    dedupe_retention_us=86_400_000_000,
    rollup_shard_count=1,
    allowed_property_keys=[],
    denied_property_keys=[],
    allowed_origins=[],
    max_events_per_second=0,
    raw_from=None,
    hours_from=None,
    days_from=None,
    created_at=_NOW,
    updated_at=_NOW,
)


def made_site(site_id: int, **settings: Any) -> Site:
    """An active site with default settings but for those given."""
    return replace(_SITE, site_id=site_id, slug=f"site-{site_id}", **settings)
