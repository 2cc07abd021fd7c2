"""Raw events, dedupe keys, and the events that are not aggregated: pending events and dead letters."""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, UUID

from common.tables.columns import key, metadata, required, time

# Ingest takes batch numbers in blocks of 1,000, so that it asks for a block only once in a thousand batches.
batch_numbers = sa.Sequence("batch_numbers", metadata=metadata, increment=1000)

# Wide columns of fixed length come first, so that no bytes are spent on alignment.
events = sa.Table(
    "events",
    metadata,
    required("occurred_at", time),
    required("received_at", time),
    required("batch_id", sa.BigInteger),
    required("site_id", sa.Integer),
    required("ord", sa.Integer),
    required("event_id", UUID),
    required("type", sa.SmallInteger),
    required("visitor_id", sa.Text),
    sa.Column("session_id", sa.Text),
    sa.Column("user_id", sa.Text),
    # The id as the sender wrote it, where that is not the text of event_id.
    sa.Column("event_id_text", sa.Text),
    sa.Column("name", key),
    sa.Column("path", key),
    sa.Column("title", sa.Text),
    sa.Column("referrer", key),
    sa.Column("source", sa.Text),
    sa.Column("device", key),
    sa.Column("browser", key),
    sa.Column("os", key),
    sa.Column("country", key),
    sa.Column("utm_source", key),
    sa.Column("utm_medium", key),
    sa.Column("utm_campaign", key),
    sa.Column("properties", JSONB),
    # serves: aggregation, which reads whole batches. It grows only at its right end
    sa.PrimaryKeyConstraint("site_id", "batch_id", "ord"),
    # serves: the raw edges of a range, property breakdowns, ListEvents and its cursor
    sa.Index("events_by_time", "site_id", "occurred_at", "batch_id", "ord"),
)

pending_batches = sa.Table(
    "pending_batches",
    metadata,
    required("site_id", sa.Integer),
    required("partition", sa.SmallInteger),
    required("batch_id", sa.BigInteger),
    # The events first_ord … last_ord of the batch are pending; a failing batch is split into such parts.
    required("first_ord", sa.Integer),
    required("last_ord", sa.Integer),
    required("attempts", sa.SmallInteger, "0"),
    required("received_at", time),
    required("not_before", time),
    sa.Column("last_error", sa.Text),
    # Whether a rebuild has queued the events again.
    required("replay", sa.Boolean, "false"),
    # serves: a worker's claim, oldest first within its partition. It is by time and not by number, because each
    # committing thread of ingest takes batch numbers from a block of its own
    sa.PrimaryKeyConstraint("site_id", "partition", "received_at", "batch_id", "first_ord"),
    # serves: "is this event pending"; removing aggregated batches
    sa.Index("pending_by_batch", "site_id", "batch_id", "first_ord"),
    # serves: "is any replay left", which every claim asks
    sa.Index("pending_replays", "site_id", "batch_id", postgresql_where=sa.text("replay")),
)

# Dead letters: events that failed three times.
failed_events = sa.Table(
    "failed_events",
    metadata,
    required("site_id", sa.Integer),
    required("batch_id", sa.BigInteger),
    required("ord", sa.Integer),
    required("partition", sa.SmallInteger),
    required("attempts", sa.SmallInteger),
    required("received_at", time),
    required("failed_at", time),
    required("error", sa.Text),
    required("replay", sa.Boolean, "false"),
    # serves: "is this event a dead letter"; the list of dead letters
    sa.PrimaryKeyConstraint("site_id", "batch_id", "ord"),
)

ingest_dedupes = sa.Table(
    "ingest_dedupes",
    metadata,
    required("expires_at", time),
    required("site_id", sa.Integer),
    required("dedupe_key", UUID),
    # serves: ON CONFLICT of ingest. UUIDv7 keys arrive in its order
    sa.PrimaryKeyConstraint("site_id", "dedupe_key"),
    # serves: PruneExpired. It grows at its right end
    sa.Index("dedupes_by_expiry", "site_id", "expires_at"),
)
