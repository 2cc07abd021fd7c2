"""Rollup rows have counters of four bytes, and the index by key is of compacted rows only."""

from collections.abc import Callable

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_NAMES = (
    "bucket_start",
    "duration_us",
    "shard",
    "events",
    "pageviews",
    "sessions",
    "bounces",
    "new_visitors",
    "site_id",
    "interval",
    "dimension",
    "key",
    "visitors",
)


def upgrade() -> None:
    _remake(_narrow)
    op.execute("ALTER SEQUENCE shard_numbers AS integer CYCLE")


def downgrade() -> None:
    op.execute("ALTER SEQUENCE shard_numbers AS bigint NO CYCLE")
    _remake(_wide)


def _remake(make: Callable[[], None]) -> None:
    """Copies the rows into a table with other types. A change of the types in place would rewrite the table as well."""
    op.rename_table("rollup_shards", "rollup_shards_before")
    for index in ("rollup_days_by_events", "rollup_deltas"):
        op.drop_index(index, table_name="rollup_shards_before")
    op.execute("ALTER TABLE rollup_shards_before DROP CONSTRAINT IF EXISTS rollup_shards_pkey")
    # From Postgres 18 on NOT NULL is a constraint with a name, which the new table needs.
    for name in _NAMES[:-1]:
        op.alter_column("rollup_shards_before", name, nullable=True)
    make()
    names = ", ".join(_NAMES)
    op.execute(f"INSERT INTO rollup_shards ({names}) SELECT {names} FROM rollup_shards_before")
    op.drop_table("rollup_shards_before")
    if make is _narrow:
        op.create_index(
            "rollup_rows",
            "rollup_shards",
            ["site_id", "interval", "dimension", "bucket_start", "key"],
            unique=True,
            postgresql_where=sa.text("shard = 0"),
            postgresql_with={"fillfactor": "100"},
        )
    else:
        op.create_primary_key(
            "rollup_shards_pkey",
            "rollup_shards",
            ["site_id", "interval", "dimension", "bucket_start", "key", "shard"],
        )
    op.create_index(
        "rollup_days_by_events",
        "rollup_shards",
        ["site_id", "dimension", "bucket_start", sa.text("events DESC")],
        postgresql_where=sa.text("interval = 2"),
    )
    op.create_index(
        "rollup_deltas",
        "rollup_shards",
        ["site_id", "dimension", "bucket_start"],
        postgresql_where=sa.text("shard > 0"),
    )


def _narrow() -> None:
    op.create_table(
        "rollup_shards",
        sa.Column("bucket_start", sa.DateTime(timezone=True), nullable=False),
        sa.Column("duration_us", sa.BigInteger(), nullable=False),
        sa.Column("shard", sa.Integer(), nullable=False),
        sa.Column("events", sa.Integer(), nullable=False),
        sa.Column("pageviews", sa.Integer(), nullable=False),
        sa.Column("sessions", sa.Integer(), nullable=False),
        sa.Column("bounces", sa.Integer(), nullable=False),
        sa.Column("new_visitors", sa.Integer(), nullable=False),
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("interval", sa.SmallInteger(), nullable=False),
        sa.Column("dimension", sa.SmallInteger(), nullable=False),
        sa.Column("key", sa.Text(collation="C"), nullable=False),
        sa.Column("visitors", sa.LargeBinary(), nullable=True),
    )


def _wide() -> None:
    op.create_table(
        "rollup_shards",
        sa.Column("bucket_start", sa.DateTime(timezone=True), nullable=False),
        sa.Column("shard", sa.BigInteger(), nullable=False),
        sa.Column("events", sa.BigInteger(), nullable=False),
        sa.Column("pageviews", sa.BigInteger(), nullable=False),
        sa.Column("sessions", sa.BigInteger(), nullable=False),
        sa.Column("bounces", sa.BigInteger(), nullable=False),
        sa.Column("duration_us", sa.BigInteger(), nullable=False),
        sa.Column("new_visitors", sa.BigInteger(), nullable=False),
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("interval", sa.SmallInteger(), nullable=False),
        sa.Column("dimension", sa.SmallInteger(), nullable=False),
        sa.Column("key", sa.Text(collation="C"), nullable=False),
        sa.Column("visitors", sa.LargeBinary(), nullable=True),
    )
