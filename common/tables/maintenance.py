"""Tables of maintenance: rebuilds, incomplete hours and runs of jobs."""

import sqlalchemy as sa

from common.tables.columns import metadata, required, time

rebuild_numbers = sa.Sequence("rebuild_numbers", metadata=metadata, data_type=sa.BigInteger)

# The last rebuild of each site; see admin_svc/maintenance/rebuild.py.
rebuilds = sa.Table(
    "rebuilds",
    metadata,
    sa.Column("site_id", sa.Integer, primary_key=True, autoincrement=False),
    # Identifies the rebuild in page tokens.
    required("number", sa.BigInteger),
    # A RebuildPhase of common/rebuild_phase.py.
    required("phase", sa.SmallInteger),
    # Derived rows from before it stay as they are, because their raw events may be gone. NULL = all are made again.
    sa.Column("horizon", time),
    # Aggregated events of this batch and of newer ones are queued again.
    required("next_batch", sa.BigInteger),
    required("started_at", time),
)

# Incomplete hours: an erasure has deleted aggregated raw events of them, so raw events hold less than rollups.
erased_hours = sa.Table(
    "erased_hours",
    metadata,
    required("hour", time),
    required("site_id", sa.Integer),
    # serves: the bounds of every report
    sa.PrimaryKeyConstraint("site_id", "hour"),
)

# Runs of the scheduled jobs; site 0 = all sites. `pages` are chunks.
job_runs = sa.Table(
    "job_runs",
    metadata,
    required("started_at", time),
    required("finished_at", time),
    required("pages", sa.BigInteger),
    required("rows", sa.BigInteger),
    required("site_id", sa.Integer),
    required("job", sa.Text),
    sa.Column("error", sa.Text),
    # serves: the last run of each job, and its end
    sa.PrimaryKeyConstraint("site_id", "job", "started_at"),
)
