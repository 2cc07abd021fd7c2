"""An index of day rows by their events, for top lists."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "rollup_days_by_events",
        "rollup_shards",
        ["site_id", "dimension", "bucket_start", sa.text("events DESC")],
        postgresql_where=sa.text("interval = 2"),
    )


def downgrade() -> None:
    op.drop_index("rollup_days_by_events", table_name="rollup_shards")
