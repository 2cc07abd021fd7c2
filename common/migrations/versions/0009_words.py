"""Columns get the words of docs/glossary.md: `lane` becomes `partition`, `shard` becomes `delta_no`."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_QUEUES = ("pending_batches", "failed_events")

# From Postgres 18 on NOT NULL constraints have names, which contain the column's name.
_NAMED = sa.text("SELECT 1 FROM pg_constraint WHERE conrelid = to_regclass(:table) AND conname = :name")


def upgrade() -> None:
    for table in _QUEUES:
        _rename(table, "lane", "partition")
    _rename("rollup_shards", "shard", "delta_no")
    op.execute("ALTER SEQUENCE shard_numbers RENAME TO delta_numbers")


def downgrade() -> None:
    op.execute("ALTER SEQUENCE delta_numbers RENAME TO shard_numbers")
    _rename("rollup_shards", "delta_no", "shard")
    for table in _QUEUES:
        _rename(table, "partition", "lane")


def _rename(table: str, old: str, new: str) -> None:
    op.alter_column(table, old, new_column_name=new)
    constraint = f"{table}_{old}_not_null"
    if op.get_bind().execute(_NAMED, {"table": table, "name": constraint}).first():
        op.execute(f"ALTER TABLE {table} RENAME CONSTRAINT {constraint} TO {table}_{new}_not_null")
