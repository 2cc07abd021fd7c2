"""First and last touch of visitors, rebuilds with their replays, and the floors of a site's data."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_FLOORS = ("raw_from", "hours_from", "days_from")
_TOUCHES = ("first_touch", "last_touch")


def upgrade() -> None:
    op.add_column("visitors", sa.Column("last_event_id", sa.UUID()))
    for name in _TOUCHES:
        op.add_column("visitors", sa.Column(name, postgresql.JSONB(astext_type=sa.Text())))
    op.create_index("visitors_by_first_seen", "visitors", ["site_id", "first_seen_at", "visitor_no"])
    for table in ("pending_batches", "failed_events"):
        op.add_column(table, sa.Column("replay", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.create_index("pending_replays", "pending_batches", ["site_id", "batch_id"], postgresql_where=sa.text("replay"))
    for name in _FLOORS:
        op.add_column("sites", sa.Column(name, sa.DateTime(timezone=True)))
    op.execute(sa.schema.CreateSequence(sa.Sequence("rebuild_numbers", data_type=sa.BigInteger())))
    op.create_table(
        "rebuilds",
        sa.Column("site_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("phase", sa.SmallInteger(), nullable=False),
        sa.Column("horizon", sa.DateTime(timezone=True), nullable=True),
        sa.Column("next_batch", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("site_id"),
    )


def downgrade() -> None:
    op.drop_table("rebuilds")
    op.execute(sa.schema.DropSequence(sa.Sequence("rebuild_numbers")))
    for name in _FLOORS:
        op.drop_column("sites", name)
    op.drop_index("pending_replays", table_name="pending_batches")
    for table in ("pending_batches", "failed_events"):
        op.drop_column(table, "replay")
    op.drop_index("visitors_by_first_seen", table_name="visitors")
    for name in ("last_event_id", *_TOUCHES):
        op.drop_column("visitors", name)
