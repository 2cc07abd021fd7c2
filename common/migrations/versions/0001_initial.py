"""The first schema: sites, keys, events, the queue, visitors, sessions and rollups."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(sa.schema.CreateSequence(sa.Sequence("batch_numbers", increment=1000)))
    op.execute(sa.schema.CreateSequence(sa.Sequence("shard_numbers", data_type=sa.BigInteger())))
    op.create_table(
        "events",
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("batch_id", sa.BigInteger(), nullable=False),
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("ord", sa.Integer(), nullable=False),
        sa.Column("event_id", sa.UUID(), nullable=False),
        sa.Column("type", sa.SmallInteger(), nullable=False),
        sa.Column("visitor_id", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=True),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("event_id_text", sa.Text(), nullable=True),
        sa.Column("name", sa.Text(collation="C"), nullable=True),
        sa.Column("path", sa.Text(collation="C"), nullable=True),
        sa.Column("title", sa.Text(), nullable=True),
        sa.Column("referrer", sa.Text(collation="C"), nullable=True),
        sa.Column("source", sa.Text(), nullable=True),
        sa.Column("device", sa.Text(collation="C"), nullable=True),
        sa.Column("browser", sa.Text(collation="C"), nullable=True),
        sa.Column("os", sa.Text(collation="C"), nullable=True),
        sa.Column("country", sa.Text(collation="C"), nullable=True),
        sa.Column("utm_source", sa.Text(collation="C"), nullable=True),
        sa.Column("utm_medium", sa.Text(collation="C"), nullable=True),
        sa.Column("utm_campaign", sa.Text(collation="C"), nullable=True),
        sa.Column("properties", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.PrimaryKeyConstraint("site_id", "batch_id", "ord"),
    )
    op.create_index("events_by_time", "events", ["site_id", "occurred_at", "batch_id", "ord"], unique=False)
    op.create_table(
        "failed_events",
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("batch_id", sa.BigInteger(), nullable=False),
        sa.Column("ord", sa.Integer(), nullable=False),
        sa.Column("lane", sa.SmallInteger(), nullable=False),
        sa.Column("attempts", sa.SmallInteger(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("failed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("site_id", "batch_id", "ord"),
    )
    op.create_table(
        "ingest_dedupes",
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("dedupe_key", sa.UUID(), nullable=False),
        sa.PrimaryKeyConstraint("site_id", "dedupe_key"),
    )
    op.create_table(
        "pending_batches",
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("lane", sa.SmallInteger(), nullable=False),
        sa.Column("batch_id", sa.BigInteger(), nullable=False),
        sa.Column("first_ord", sa.Integer(), nullable=False),
        sa.Column("last_ord", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("site_id", "lane", "batch_id", "first_ord"),
    )
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
        sa.Column("visitors", postgresql.BYTEA(), nullable=True),
        sa.PrimaryKeyConstraint("site_id", "interval", "dimension", "bucket_start", "key", "shard"),
    )
    op.create_table(
        "secrets",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", postgresql.BYTEA(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "sessions",
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("entry_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("exit_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("visitor_no", sa.Integer(), nullable=False),
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("events", sa.Integer(), nullable=False),
        sa.Column("pageviews", sa.Integer(), nullable=False),
        sa.Column("first_event_id", sa.UUID(), nullable=False),
        sa.Column("entry_event_id", sa.UUID(), nullable=True),
        sa.Column("exit_event_id", sa.UUID(), nullable=True),
        sa.Column("new_visitor", sa.Boolean(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(collation="C"), nullable=True),
        sa.Column("page", sa.Text(collation="C"), nullable=True),
        sa.Column("referrer", sa.Text(collation="C"), nullable=True),
        sa.Column("utm_source", sa.Text(collation="C"), nullable=True),
        sa.Column("utm_medium", sa.Text(collation="C"), nullable=True),
        sa.Column("utm_campaign", sa.Text(collation="C"), nullable=True),
        sa.Column("device", sa.Text(collation="C"), nullable=True),
        sa.Column("browser", sa.Text(collation="C"), nullable=True),
        sa.Column("os", sa.Text(collation="C"), nullable=True),
        sa.Column("country", sa.Text(collation="C"), nullable=True),
        sa.Column("entry_page", sa.Text(collation="C"), nullable=True),
        sa.Column("exit_page", sa.Text(collation="C"), nullable=True),
        sa.PrimaryKeyConstraint("site_id", "visitor_no", "session_id", "started_at"),
        postgresql_with={"fillfactor": "85"},
    )
    op.create_index("sessions_by_start", "sessions", ["site_id", "started_at", "visitor_no"], unique=False)
    op.create_table(
        "sites",
        sa.Column("site_id", sa.Integer(), autoincrement=True, nullable=False),
        sa.Column("slug", sa.Text(collation="C"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.Column("session_timeout_us", sa.BigInteger(), nullable=False),
        sa.Column("retention_days", sa.Integer(), nullable=True),
        sa.Column("raw_event_retention_days", sa.Integer(), nullable=True),
        sa.Column("hourly_rollup_retention_days", sa.Integer(), nullable=True),
        sa.Column("daily_rollup_retention_days", sa.Integer(), nullable=True),
        sa.Column("dedupe_retention_us", sa.BigInteger(), nullable=False),
        sa.Column("rollup_shard_count", sa.SmallInteger(), nullable=False),
        sa.Column("allowed_property_keys", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("denied_property_keys", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("allowed_origins", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("site_id"),
        sa.UniqueConstraint("slug"),
    )
    op.create_table(
        "visitor_counters",
        sa.Column("site_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("next_no", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("site_id"),
    )
    op.create_table(
        "visitors",
        sa.Column("first_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("identified_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("visitor_no", sa.Integer(), nullable=False),
        sa.Column("first_event_id", sa.UUID(), nullable=False),
        sa.Column("identified_event_id", sa.UUID(), nullable=True),
        sa.Column("visitor_id", sa.Text(), nullable=False),
        sa.Column("first_session_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("traits", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.PrimaryKeyConstraint("site_id", "visitor_no"),
        sa.UniqueConstraint("site_id", "visitor_id", name="visitors_by_id"),
        postgresql_with={"fillfactor": "85"},
    )
    op.create_table(
        "api_keys",
        sa.Column("key_id", sa.BigInteger(), autoincrement=True, nullable=False),
        sa.Column("kind", sa.SmallInteger(), nullable=False),
        sa.Column("site_id", sa.Integer(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("key_sha256", postgresql.BYTEA(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["site_id"], ["sites.site_id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("key_id"),
        sa.UniqueConstraint("key_sha256"),
    )
    op.create_index("api_keys_by_site", "api_keys", ["site_id", "key_id"], unique=False)

    # Every process of the suite seals page tokens with the same key.
    op.execute(
        "INSERT INTO secrets (name, value) "
        "SELECT 'page_tokens', uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())"
    )


def downgrade() -> None:
    op.drop_index("api_keys_by_site", table_name="api_keys")
    op.drop_table("api_keys")
    op.drop_table("visitors")
    op.drop_table("visitor_counters")
    op.drop_table("sites")
    op.drop_index("sessions_by_start", table_name="sessions")
    op.drop_table("sessions")
    op.drop_table("secrets")
    op.drop_table("rollup_shards")
    op.drop_table("pending_batches")
    op.drop_table("ingest_dedupes")
    op.drop_table("failed_events")
    op.drop_index("events_by_time", table_name="events")
    op.drop_table("events")
    op.execute(sa.schema.DropSequence(sa.Sequence("shard_numbers")))
    op.execute(sa.schema.DropSequence(sa.Sequence("batch_numbers")))
