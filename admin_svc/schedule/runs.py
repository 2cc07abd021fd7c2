"""What the scheduled jobs did: a row for each run, or for each minute of runs that end without an error."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import psycopg

from common.sites import DELETING

KEPT = timedelta(days=7)
COMPACT = "fold"
"""The name that GetStatus has for runs of compaction."""
JOBS = ("aggregate", "cleanup", COMPACT, "prune", "retry")
"""Every job by the name that is stored, in the order of GetStatus."""
ALL_SITES = 0
"""The site_id of a run that was not for one site."""
_MERGED = timedelta(minutes=1)
_DELETED_A_RUN = 1_000

# Adds to the last run, where that ended well and began less than a minute ago.
_PROLONG = """
UPDATE job_runs SET finished_at = %(finished_at)s, pages = pages + %(chunks)s, rows = rows + %(rows)s
WHERE site_id = %(site_id)s AND job = %(job)s AND error IS NULL AND started_at = (
    SELECT max(started_at) FROM job_runs
    WHERE site_id = %(site_id)s AND job = %(job)s AND started_at > %(since)s AND started_at <= %(finished_at)s
)
"""

# Adds a run, but none of a site that has been deleted meanwhile.
_ADD = f"""
INSERT INTO job_runs (site_id, job, started_at, finished_at, pages, rows, error)
SELECT %(site_id)s, %(job)s, %(started_at)s, %(finished_at)s, %(chunks)s, %(rows)s, %(error)s
WHERE %(site_id)s = {ALL_SITES} OR EXISTS (SELECT FROM sites WHERE site_id = %(site_id)s AND status <> {DELETING})
ON CONFLICT (site_id, job, started_at) DO UPDATE
SET finished_at = excluded.finished_at, pages = job_runs.pages + excluded.pages,
    rows = job_runs.rows + excluded.rows, error = coalesce(excluded.error, job_runs.error)
"""

# Deletes runs of one job of one site that ended long ago.
_DELETE_OLD = """
DELETE FROM job_runs WHERE site_id = %(site_id)s AND ctid = ANY(ARRAY(
    SELECT ctid FROM job_runs WHERE site_id = %(site_id)s AND job = %(job)s AND started_at < %(before)s
    ORDER BY started_at LIMIT %(rows)s
))
"""

# The last run of each job of the sites: one index probe each, however many runs there were.
_LAST = """
SELECT s.site_id, j.job, last.*
FROM unnest(%(site_ids)s::int[]) AS s (site_id) CROSS JOIN unnest(%(jobs)s::text[]) AS j (job)
CROSS JOIN LATERAL (
    SELECT started_at, finished_at, pages, rows, error FROM job_runs r
    WHERE r.site_id = s.site_id AND r.job = j.job ORDER BY started_at DESC LIMIT 1
) AS last
ORDER BY s.site_id, j.job
"""

Connection = psycopg.Connection[Any]


class Run(NamedTuple):
    """One run of a job for one site, or for all of them."""

    site_id: int
    job: str
    started_at: datetime
    finished_at: datetime
    chunks: int
    rows: int
    error: str | None = None
    """What error_text says of the error that it ended with."""


def record(connection: Connection, run: Run) -> None:
    """Stores the run, and deletes runs of the same job that are more than 7 days old."""
    parameters = {**run._asdict(), "since": run.started_at - _MERGED}
    if run.error is None and connection.execute(_PROLONG, parameters).rowcount:
        return
    connection.execute(_ADD, parameters)
    connection.execute(_DELETE_OLD, {**parameters, "before": run.started_at - KEPT, "rows": _DELETED_A_RUN})


def last_runs(connection: Connection, site_ids: Sequence[int]) -> dict[int, list[Run]]:
    """The last run of each job, by site."""
    found: dict[int, list[Run]] = {site_id: [] for site_id in site_ids}
    parameters = {"site_ids": list(site_ids), "jobs": list(JOBS)}
    for row in connection.execute(_LAST, parameters):
        run = Run._make(row)
        found[run.site_id].append(run)
    return found
