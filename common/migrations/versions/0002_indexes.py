"""Indexes of the work that is left: deltas not yet compacted, pending batches."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "rollup_deltas",
        "rollup_shards",
        ["site_id", "dimension", "bucket_start"],
        postgresql_where=sa.text("shard > 0"),
    )

    op.create_index("pending_by_batch", "pending_batches", ["site_id", "batch_id", "first_ord"])


def downgrade() -> None:
    op.drop_index("pending_by_batch", table_name="pending_batches")
    op.drop_index("rollup_deltas", table_name="rollup_shards")
