"""A limit of events per second for each site, and when each key was last used."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds both columns; no row is rewritten."""
    op.add_column("sites", sa.Column("max_events_per_second", sa.Integer, nullable=False, server_default="0"))
    op.add_column("api_keys", sa.Column("last_used_at", sa.DateTime(timezone=True)))


def downgrade() -> None:
    """Removes both columns."""
    op.drop_column("api_keys", "last_used_at")
    op.drop_column("sites", "max_events_per_second")
