"""What the scheduled jobs did: a row per run, or per minute of runs that follow each other without an error."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import psycopg
from footfall.admin.v1 import admin_pb2

from common.sites import DELETING
from common.timestamps import to_timestamp

KEPT = timedelta(days=7)
JOBS = ("aggregate", "cleanup", "fold", "prune", "retry")
ALL_SITES = 0
"""The site_id of a run that was not for one site."""
_TOLD_AS_ONE = timedelta(minutes=1)
_PRUNED_A_RUN = 1_000

# Adds to the last run, where that ended well and began less than a minute ago.
_PROLONG = """
UPDATE job_runs SET finished_at = %(finished_at)s, pages = pages + %(pages)s, rows = rows + %(rows)s
WHERE site_id = %(site_id)s AND job = %(job)s AND error IS NULL AND started_at = (
    SELECT max(started_at) FROM job_runs
    WHERE site_id = %(site_id)s AND job = %(job)s AND started_at > %(since)s AND started_at <= %(finished_at)s
)
"""

# A run may end after its site was deleted: of that nothing is kept.
_ADD = f"""
INSERT INTO job_runs (site_id, job, started_at, finished_at, pages, rows, error)
SELECT %(site_id)s, %(job)s, %(started_at)s, %(finished_at)s, %(pages)s, %(rows)s, %(error)s
WHERE %(site_id)s = {ALL_SITES} OR EXISTS (SELECT FROM sites WHERE site_id = %(site_id)s AND status <> {DELETING})
ON CONFLICT (site_id, job, started_at) DO UPDATE
SET finished_at = excluded.finished_at, pages = job_runs.pages + excluded.pages,
    rows = job_runs.rows + excluded.rows, error = coalesce(excluded.error, job_runs.error)
"""

# Deletes runs of one job of one site that ended long ago.
_PRUNE = """
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
    pages: int
    rows: int
    error: str | None = None
    """What error_text says of what it ended with."""


def record(connection: Connection, run: Run) -> None:
    """Writes the run down, and forgets runs of the same job that are more than 7 days old."""
    parameters = {**run._asdict(), "since": run.started_at - _TOLD_AS_ONE}
    if run.error is None and connection.execute(_PROLONG, parameters).rowcount:
        return
    connection.execute(_ADD, parameters)
    connection.execute(_PRUNE, {**parameters, "before": run.started_at - KEPT, "rows": _PRUNED_A_RUN})


def last_runs(connection: Connection, site_ids: Sequence[int]) -> dict[int, list[admin_pb2.JobRun]]:
    """The last run of each job, by site."""
    found: dict[int, list[admin_pb2.JobRun]] = {site_id: [] for site_id in site_ids}
    for site_id, job, started_at, finished_at, pages, rows, error in connection.execute(
        _LAST, {"site_ids": list(site_ids), "jobs": list(JOBS)}
    ):
        found[site_id].append(
            admin_pb2.JobRun(
                job=job,
                start_time=to_timestamp(started_at),
                end_time=to_timestamp(finished_at),
                pages=pages,
                rows=rows,
                error=error or "",
            )
        )
    return found
