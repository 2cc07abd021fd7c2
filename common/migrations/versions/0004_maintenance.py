"""For maintenance: indexes of dedupe keys by expiry and visitors by user, incomplete hours, runs of jobs."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("dedupes_by_expiry", "ingest_dedupes", ["site_id", "expires_at"])
    op.create_index(
        "visitors_by_user", "visitors", ["site_id", "user_id"], postgresql_where=sa.text("user_id IS NOT NULL")
    )
    op.create_table(
        "erased_hours",
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("site_id", "hour"),
    )
    op.create_table(
        "job_runs",
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("pages", sa.BigInteger(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("job", sa.Text(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("site_id", "job", "started_at"),
    )


def downgrade() -> None:
    op.drop_table("job_runs")
    op.drop_table("erased_hours")
    op.drop_index("visitors_by_user", table_name="visitors")
    op.drop_index("dedupes_by_expiry", table_name="ingest_dedupes")
