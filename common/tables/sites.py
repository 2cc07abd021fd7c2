"""Sites, keys and secrets: small, and shared by all sites."""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, BYTEA

from common.tables.columns import key, metadata, required, time

sites = sa.Table(
    "sites",
    metadata,
    sa.Column("site_id", sa.Integer, primary_key=True, autoincrement=True),
    # serves: every call that names a site by its slug; ListSites in slug order
    sa.Column("slug", key, nullable=False, unique=True),
    required("name", sa.Text),
    required("status", sa.SmallInteger),
    required("session_timeout_us", sa.BigInteger),
    sa.Column("retention_days", sa.Integer),
    sa.Column("raw_event_retention_days", sa.Integer),
    sa.Column("hourly_rollup_retention_days", sa.Integer),
    sa.Column("daily_rollup_retention_days", sa.Integer),
    required("dedupe_retention_us", sa.BigInteger),
    required("rollup_shard_count", sa.SmallInteger),
    required("allowed_property_keys", ARRAY(sa.Text)),
    required("denied_property_keys", ARRAY(sa.Text)),
    required("allowed_origins", ARRAY(sa.Text)),
    required("created_at", time),
    required("updated_at", time),
    # The floors: from when on raw events and sessions, hour rows and day rows are whole. What was before may have been
    # deleted by cleanup; NULL = nothing has been. Whole hours (raw_from, hours_from) and days (days_from).
    sa.Column("raw_from", time),
    sa.Column("hours_from", time),
    sa.Column("days_from", time),
    # 0 = no limit
    required("max_events_per_second", sa.Integer, "0"),
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("key_id", sa.BigInteger, primary_key=True, autoincrement=True),
    required("kind", sa.SmallInteger),
    sa.Column("site_id", sa.Integer, sa.ForeignKey("sites.site_id", ondelete="CASCADE")),
    required("name", sa.Text),
    # serves: the lookup of a key by its SHA-256 on every call (behind a cache)
    sa.Column("key_sha256", BYTEA, nullable=False, unique=True),
    required("created_at", time),
    sa.Column("expires_at", time),
    sa.Column("last_used_at", time),
    # serves: RotateWriteKey, and ListApiKeys of one site
    sa.Index("api_keys_by_site", "site_id", "key_id"),
)

secrets = sa.Table(
    "secrets",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    required("value", BYTEA),
)
