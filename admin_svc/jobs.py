"""The jobs the admin process does by itself: which sites each has work on, and one page of it."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple

import psycopg

from admin_svc import aggregate, cleanup, compact, failed, pending, prune
from admin_svc.aggregate import Aggregator
from admin_svc.job_runs import ALL_SITES
from common.clock import Clock
from common.errors import CallError, Reason
from common.locks import job_lock
from common.settings import Settings
from common.sites import DELETING, find_site

_RETRIED_AFTER = timedelta(hours=1)

_ACTIVE_SITES = f"SELECT site_id FROM sites WHERE status <> {DELETING} ORDER BY site_id"
_SLUG = "SELECT slug FROM sites WHERE site_id = %(site_id)s"

# The sites with an event that failed some time ago.
_SITES_TO_RETRY = f"""
SELECT s.site_id FROM sites s
WHERE s.status <> {DELETING}
  AND EXISTS (SELECT FROM failed_events f WHERE f.site_id = s.site_id AND f.failed_at <= %(failed_before)s)
ORDER BY s.site_id
"""

Connection = psycopg.Connection[Any]


class Done(NamedTuple):
    """What one page did."""

    rows: int
    more: bool
    """Whether another page may find work."""


NOTHING = Done(0, False)


class Job(NamedTuple):
    """One job, named as in job_runs.JOBS. Both functions take a connection in autocommit and raise a DatabaseFault."""

    name: str
    seconds: float
    """How long after the start of a run the next one is due; 0 = never."""
    sites: Callable[[Connection], list[int]]
    page: Callable[[Connection, int], Done]


def jobs(settings: Settings, aggregator: Aggregator, clock: Clock) -> list[Job]:
    """All jobs, as the settings want them."""

    def aggregate_page(connection: Connection, site_id: int) -> Done:
        # Not alone: lanes are worked on side by side, each by one worker at a time.
        page = aggregator.run_site_once(connection, site_id, clock(), aggregate.DEFAULT_LIMIT)
        return Done(page.aggregated + page.failed, page.worked)

    def fold_page(connection: Connection, site_id: int) -> Done:
        folded = compact.run_once(connection, site_id, compact.DEFAULT_LIMIT)
        return Done(folded.shards, folded.shards > 0)

    def retry_sites(connection: Connection) -> list[int]:
        return _numbers(connection.execute(_SITES_TO_RETRY, {"failed_before": clock() - _RETRIED_AFTER}))

    def retry_page(connection: Connection, site_id: int) -> Done:
        now = clock()
        return Done(*failed.retry_once(connection, site_id, now, failed.DEFAULT_LIMIT, now - _RETRIED_AFTER))

    def cleanup_page(connection: Connection, site_id: int) -> Done:
        row = connection.execute(_SLUG, {"site_id": site_id}).fetchone()
        if row is None:
            return NOTHING
        try:
            page = cleanup.run_once(connection, find_site(connection, row[0]), clock(), cleanup.DEFAULT_LIMIT)
        except CallError as error:
            # A site that is being rebuilt is cleaned up when that has ended.
            if error.reason in (Reason.SITE_BUSY, Reason.SITE_NOT_FOUND):
                return NOTHING
            raise
        return Done(sum(page.counts.values()), page.has_more)

    def prune_page(connection: Connection, site_id: int) -> Done:
        page = prune.run_once(connection, clock(), prune.DEFAULT_LIMIT)
        return Done(page.deleted, page.has_more)

    aggregate_seconds = settings.aggregate_seconds if settings.aggregate else 0
    return [
        Job(
            "aggregate",
            aggregate_seconds,
            lambda connection: pending.sites_with_work(connection, clock()),
            aggregate_page,
        ),
        Job("fold", settings.fold_seconds, compact.sites_with_deltas, _alone(2, fold_page)),
        Job("retry", settings.retry_seconds, retry_sites, _alone(3, retry_page)),
        Job(
            "cleanup",
            settings.cleanup_seconds,
            lambda connection: _numbers(connection.execute(_ACTIVE_SITES)),
            _alone(4, cleanup_page),
        ),
        Job("prune", settings.prune_seconds, lambda connection: [ALL_SITES], _alone(5, prune_page)),
    ]


def _alone(number: int, page: Callable[[Connection, int], Done]) -> Callable[[Connection, int], Done]:
    """The page, done by one process at a time: another finds nothing to do, and takes over when that one dies."""

    def page_alone(connection: Connection, site_id: int) -> Done:
        with connection.transaction():
            row = connection.execute("SELECT pg_try_advisory_xact_lock(%s, %s)", job_lock(site_id, number)).fetchone()
            return page(connection, site_id) if row and row[0] else NOTHING

    return page_alone


def _numbers(rows: Any) -> list[int]:
    return [row[0] for row in rows]
