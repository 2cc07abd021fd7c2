"""Runs of the scheduled jobs are stored: a row for each run, or one for a minute of runs without an error."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import psycopg

from common.sites import DELETING

KEPT = timedelta(days=7)
COMPACT = "fold"
"""The name of compaction in GetStatus. It is part of the contract with clients."""
JOBS = ("aggregate", "cleanup", COMPACT, "prune", "retry")
"""The stored names of all jobs, in the order of GetStatus."""
ALL_SITES = 0
"""The site_id of a run that was for all sites."""
_MERGED = timedelta(minutes=1)
_DELETED_A_RUN = 1_000
_RECORDED_TOGETHER = 100

# Adds to the last run if that ended without an error and began less than a minute ago.
_PROLONG = """
UPDATE job_runs SET finished_at = %(finished_at)s, pages = pages + %(chunks)s, rows = rows + %(rows)s
WHERE site_id = %(site_id)s AND job = %(job)s AND error IS NULL AND started_at = (
    SELECT max(started_at) FROM job_runs
    WHERE site_id = %(site_id)s AND job = %(job)s AND started_at > %(since)s AND started_at <= %(finished_at)s
)
"""

# Adds a run, unless its site is being deleted or has been deleted.
_ADD = f"""
INSERT INTO job_runs (site_id, job, started_at, finished_at, pages, rows, error)
SELECT %(site_id)s, %(job)s, %(started_at)s, %(finished_at)s, %(chunks)s, %(rows)s, %(error)s
WHERE %(site_id)s = {ALL_SITES} OR EXISTS (SELECT FROM sites WHERE site_id = %(site_id)s AND status <> {DELETING})
ON CONFLICT (site_id, job, started_at) DO UPDATE
SET finished_at = excluded.finished_at, pages = job_runs.pages + excluded.pages,
    rows = job_runs.rows + excluded.rows, error = coalesce(excluded.error, job_runs.error)
"""

# Deletes the oldest runs of one job of one site that began before a time.
_DELETE_OLD = """
DELETE FROM job_runs WHERE site_id = %(site_id)s AND ctid = ANY(ARRAY(
    SELECT ctid FROM job_runs WHERE site_id = %(site_id)s AND job = %(job)s AND started_at < %(before)s
    ORDER BY started_at LIMIT %(rows)s
))
"""

# The last run of each job of each site: one index probe each, however many runs are stored.
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
    """The text of the error that the run ended with (see error_text.py)."""


def record(connection: Connection, runs: Sequence[Run]) -> None:
    """Stores the runs, 100 in a transaction. `connection` is in autocommit.

    Of each job and site of which a run is added, it deletes up to 1,000 runs that are more than 7 days old.
    """
    # In one order, so that two processes cannot deadlock.
    ordered = sorted(runs, key=lambda run: (run.site_id, run.job))
    for start in range(0, len(ordered), _RECORDED_TOGETHER):
        with connection.transaction():
            _record(connection, ordered[start : start + _RECORDED_TOGETHER])


def _record(connection: Connection, runs: Sequence[Run]) -> None:
    parameters = [{**run._asdict(), "since": run.started_at - _MERGED} for run in runs]
    with connection.pipeline():
        prolonged = [
            None if run.error is not None else connection.execute(_PROLONG, each)
            for run, each in zip(runs, parameters, strict=True)
        ]
    added = [
        (run, each)
        for run, each, cursor in zip(runs, parameters, prolonged, strict=True)
        if cursor is None or not cursor.rowcount
    ]
    with connection.pipeline():
        for run, each in added:
            connection.execute(_ADD, each)
            connection.execute(_DELETE_OLD, {**each, "before": run.started_at - KEPT, "rows": _DELETED_A_RUN})


def last_runs(connection: Connection, site_ids: Sequence[int]) -> dict[int, list[Run]]:
    """The last run of each job, by site."""
    found: dict[int, list[Run]] = {site_id: [] for site_id in site_ids}
    parameters = {"site_ids": list(site_ids), "jobs": list(JOBS)}
    for row in connection.execute(_LAST, parameters):
        run = Run._make(row)
        found[run.site_id].append(run)
    return found
