"""Maintenance of a test's site, driven through the admin service chunk by chunk, and its tables beside it."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from footfall.admin.v1 import admin_pb2
from google.protobuf import field_mask_pb2

from tests.oracle.raw_events import DAY
from tests.support.footfall_site import FootfallSite

KINDS = ("events", "sessions", "hourly_rollups", "daily_rollups", "visitors")
"""What CleanupSite deletes, in the order in which it does."""
RETENTIONS = (
    "retention_days",
    "raw_event_retention_days",
    "hourly_rollup_retention_days",
    "daily_rollup_retention_days",
)
FOR_EVER = 36_500

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ROLLUPS = "SELECT * FROM rollup_shards WHERE site_id = %(site_id)s AND interval"
_TABLES = {
    "events": "SELECT * FROM events WHERE site_id = %(site_id)s",
    "sessions": "SELECT * FROM sessions WHERE site_id = %(site_id)s",
    "hourly_rollups": f"{_ROLLUPS} = 1",
    "daily_rollups": f"{_ROLLUPS} = 2",
    "visitors": "SELECT * FROM visitors WHERE site_id = %(site_id)s",
}
_BESIDE = ("pending_batches", "failed_events", "ingest_dedupes", "erased_hours", "rebuilds", "job_runs")

Connection = psycopg.Connection[Any]


def instant(micros: int) -> datetime:
    """An instant given in microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=micros)


def keep(site: FootfallSite, **days: int | None) -> admin_pb2.SiteSettings:
    """Sets the retentions named (None unsets one) and no other; the settings as they are then."""
    settings = admin_pb2.SiteSettings()
    for name, value in days.items():
        if value is not None:
            setattr(settings, name, value)
    mask = field_mask_pb2.FieldMask(paths=[f"settings.{name}" for name in days])
    request = admin_pb2.UpdateSiteRequest(site=admin_pb2.Site(slug=site.slug, settings=settings), update_mask=mask)
    answer: admin_pb2.UpdateSiteResponse = site.operator.UpdateSite(request, metadata=site.as_admin)
    return answer.site.settings


def keep_all(site: FootfallSite, raw: int, hourly: int, daily: int | None) -> None:
    """Sets all the retentions at once."""
    keep(site, **dict(zip(RETENTIONS, (FOR_EVER, raw, hourly, daily), strict=True)))


def cleanup_chunk(
    site: FootfallSite, now: int | None = None, *, limit: int = 0, token: str = "", dry_run: bool = False
) -> admin_pb2.CleanupSiteResponse:
    """One chunk; `now` in microseconds since 1970."""
    request = admin_pb2.CleanupSiteRequest(site=site.slug, limit=limit, page_token=token, dry_run=dry_run)
    if now is not None:
        request.now.FromMicroseconds(now)
    chunk: admin_pb2.CleanupSiteResponse = site.operator.CleanupSite(request, metadata=site.as_admin)
    assert chunk.has_more == (chunk.next_page_token != "")
    assert limit < 1 or sum(counts_of(chunk).values()) <= limit
    return chunk


def cleanup_chunks(
    site: FootfallSite, now: int, *, limit: int = 0, dry_run: bool = False
) -> Iterator[admin_pb2.CleanupSiteResponse]:
    """Chunk after chunk, until there is no more."""
    token = ""
    while True:
        chunk = cleanup_chunk(site, now, limit=limit, token=token, dry_run=dry_run)
        yield chunk
        token = chunk.next_page_token
        if not token:
            return


def cleanup(site: FootfallSite, now: int, *, limit: int = 0, dry_run: bool = False) -> dict[str, int]:
    """All chunks; how many rows of each kind."""
    return added(counts_of(chunk) for chunk in cleanup_chunks(site, now, limit=limit, dry_run=dry_run))


def counts_of(chunk: admin_pb2.CleanupSiteResponse) -> dict[str, int]:
    return {kind: getattr(chunk, kind) for kind in KINDS}


def added(chunks: Iterator[Mapping[str, int]]) -> dict[str, int]:
    """The sum of several chunks."""
    total = dict.fromkeys(KINDS, 0)
    for chunk in chunks:
        for kind in KINDS:
            total[kind] += chunk[kind]
    return total


def compact(site: FootfallSite, limit: int = 0) -> int:
    """Compacts chunk by chunk until there is no more; how many deltas that were."""
    token, compacted = "", 0
    while True:
        request = admin_pb2.CompactRollupsRequest(site=site.slug, limit=limit, page_token=token)
        chunk = site.operator.CompactRollups(request, metadata=site.as_admin)
        assert chunk.has_more == (chunk.next_page_token != "")
        compacted, token = compacted + chunk.compacted_shards, chunk.next_page_token
        if not token:
            return compacted


def state_of(site: FootfallSite) -> admin_pb2.SiteState:
    """What GetStatus says of the site."""
    answer = site.operator.GetStatus(admin_pb2.GetStatusRequest(site=site.slug), metadata=site.as_admin)
    [state] = answer.sites
    found: admin_pb2.SiteState = state
    return found


def rows(connection: Connection, site_id: int) -> dict[str, list[Any]]:
    """The rows of each kind, in an order of their own."""
    return {
        kind: sorted(connection.execute(statement, {"site_id": site_id}).fetchall(), key=repr)
        for kind, statement in _TABLES.items()
    }


def sizes(connection: Connection, site_id: int) -> dict[str, int]:
    """How many rows of each kind there are."""
    return {kind: len(found) for kind, found in rows(connection, site_id).items()}


def everything(connection: Connection, site_id: int) -> list[Any]:
    """All that a site has in the database, its own row included."""
    found: list[Any] = [rows(connection, site_id)]
    for table in (*_BESIDE, "sites"):
        found.append(
            sorted(connection.execute(f"SELECT * FROM {table} WHERE site_id = %s", (site_id,)).fetchall(), key=repr)
        )
    return found


def day_of(micros: int) -> int:
    """The start of its UTC day."""
    return micros // DAY * DAY
