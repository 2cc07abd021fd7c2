"""Pending batches by arrival, because each committing thread of ingest numbers its batches from its own block."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _key_by("site_id", "lane", "received_at", "batch_id", "first_ord")


def downgrade() -> None:
    _key_by("site_id", "lane", "batch_id", "first_ord")


def _key_by(*columns: str) -> None:
    op.drop_constraint("pending_batches_pkey", "pending_batches", type_="primary")
    op.create_primary_key("pending_batches_pkey", "pending_batches", list(columns))
