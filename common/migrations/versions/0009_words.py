"""The columns take the words of docs/glossary.md: partition for lane, delta_no for shard."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("pending_batches", "failed_events"):
        op.alter_column(table, "lane", new_column_name="partition")
    op.alter_column("rollup_shards", "shard", new_column_name="delta_no")
    op.execute("ALTER SEQUENCE shard_numbers RENAME TO delta_numbers")


def downgrade() -> None:
    op.execute("ALTER SEQUENCE delta_numbers RENAME TO shard_numbers")
    op.alter_column("rollup_shards", "delta_no", new_column_name="shard")
    for table in ("pending_batches", "failed_events"):
        op.alter_column(table, "partition", new_column_name="lane")
