"""The schema. Migrations make it; a test holds the two against each other.

Every tenant table carries `site_id`, and every key of it begins with that, so that the database can be
spread by site. `sites`, `api_keys` and `secrets` are small and shared.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, BYTEA, JSONB, UUID

metadata = sa.MetaData()

_time = sa.DateTime(timezone=True)
# Keys are ranked and compared by bytes, everywhere alike and whatever the database's locale is.
_key = sa.Text(collation="C")


def _required(name: str, kind: Any, default: str | None = None) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False, server_default=sa.text(default) if default else None)


sites = sa.Table(
    "sites",
    metadata,
    sa.Column("site_id", sa.Integer, primary_key=True, autoincrement=True),
    # serves: every call that names a site by its slug; ListSites in slug order
    sa.Column("slug", _key, nullable=False, unique=True),
    _required("name", sa.Text),
    _required("status", sa.SmallInteger),
    _required("session_timeout_us", sa.BigInteger),
    sa.Column("retention_days", sa.Integer),
    sa.Column("raw_event_retention_days", sa.Integer),
    sa.Column("hourly_rollup_retention_days", sa.Integer),
    sa.Column("daily_rollup_retention_days", sa.Integer),
    _required("dedupe_retention_us", sa.BigInteger),
    _required("rollup_shard_count", sa.SmallInteger),
    _required("allowed_property_keys", ARRAY(sa.Text)),
    _required("denied_property_keys", ARRAY(sa.Text)),
    _required("allowed_origins", ARRAY(sa.Text)),
    _required("created_at", _time),
    _required("updated_at", _time),
    # From when on raw events and sessions, hour rows and day rows are whole; what was before may have been cleaned
    # up. NULL = nothing was. Whole hours (raw_from, hours_from) and days (days_from).
    sa.Column("raw_from", _time),
    sa.Column("hours_from", _time),
    sa.Column("days_from", _time),
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("key_id", sa.BigInteger, primary_key=True, autoincrement=True),
    _required("kind", sa.SmallInteger),
    sa.Column("site_id", sa.Integer, sa.ForeignKey("sites.site_id", ondelete="CASCADE")),
    _required("name", sa.Text),
    # serves: the lookup of a key by its SHA-256 on every call (behind a cache)
    sa.Column("key_sha256", BYTEA, nullable=False, unique=True),
    _required("created_at", _time),
    sa.Column("expires_at", _time),
    # serves: RotateWriteKey, and ListApiKeys of one site
    sa.Index("api_keys_by_site", "site_id", "key_id"),
)

secrets = sa.Table(
    "secrets",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    _required("value", BYTEA),
)

# Batch numbers are handed out in blocks, so that ingest asks for one once in a thousand batches.
batch_numbers = sa.Sequence("batch_numbers", metadata=metadata, increment=1000)
# One number per aggregation page: the shard of all its deltas.
# They begin anew after 2^31: no two deltas of one number are ever there at once.
shard_numbers = sa.Sequence("shard_numbers", metadata=metadata, data_type=sa.Integer, cycle=True)

# Wide columns of fixed length first: no row spends bytes on alignment.
events = sa.Table(
    "events",
    metadata,
    _required("occurred_at", _time),
    _required("received_at", _time),
    _required("batch_id", sa.BigInteger),
    _required("site_id", sa.Integer),
    _required("ord", sa.Integer),
    _required("event_id", UUID),
    _required("type", sa.SmallInteger),
    _required("visitor_id", sa.Text),
    sa.Column("session_id", sa.Text),
    sa.Column("user_id", sa.Text),
    # What the sender called it, where that is not the text of event_id.
    sa.Column("event_id_text", sa.Text),
    sa.Column("name", _key),
    sa.Column("path", _key),
    sa.Column("title", sa.Text),
    sa.Column("referrer", _key),
    sa.Column("source", sa.Text),
    sa.Column("device", _key),
    sa.Column("browser", _key),
    sa.Column("os", _key),
    sa.Column("country", _key),
    sa.Column("utm_source", _key),
    sa.Column("utm_medium", _key),
    sa.Column("utm_campaign", _key),
    sa.Column("properties", JSONB),
    # serves: aggregation, which reads whole batches; grows only at its right end
    sa.PrimaryKeyConstraint("site_id", "batch_id", "ord"),
    # serves: the raw edges of a range, property breakdowns, ListEvents and its cursor
    sa.Index("events_by_time", "site_id", "occurred_at", "batch_id", "ord"),
)

pending_batches = sa.Table(
    "pending_batches",
    metadata,
    _required("site_id", sa.Integer),
    _required("lane", sa.SmallInteger),
    _required("batch_id", sa.BigInteger),
    # The events first_ord … last_ord of the batch are pending; a failing batch is split into such parts.
    _required("first_ord", sa.Integer),
    _required("last_ord", sa.Integer),
    _required("attempts", sa.SmallInteger, "0"),
    _required("received_at", _time),
    _required("not_before", _time),
    sa.Column("last_error", sa.Text),
    # The events were counted before and are counted again by a rebuild.
    _required("replay", sa.Boolean, "false"),
    # serves: a worker's claim, oldest first within its lane; numbers do not tell, for each committer of ingest takes
    # them from a block of its own
    sa.PrimaryKeyConstraint("site_id", "lane", "received_at", "batch_id", "first_ord"),
    # serves: "is this event pending"; taking what is done off the queue
    sa.Index("pending_by_batch", "site_id", "batch_id", "first_ord"),
    # serves: "is any replay left", which every claim asks
    sa.Index("pending_replays", "site_id", "batch_id", postgresql_where=sa.text("replay")),
)

failed_events = sa.Table(
    "failed_events",
    metadata,
    _required("site_id", sa.Integer),
    _required("batch_id", sa.BigInteger),
    _required("ord", sa.Integer),
    _required("lane", sa.SmallInteger),
    _required("attempts", sa.SmallInteger),
    _required("received_at", _time),
    _required("failed_at", _time),
    _required("error", sa.Text),
    _required("replay", sa.Boolean, "false"),
    # serves: "has this event failed"; the list of failed events
    sa.PrimaryKeyConstraint("site_id", "batch_id", "ord"),
)

rebuild_numbers = sa.Sequence("rebuild_numbers", metadata=metadata, data_type=sa.BigInteger)

# The rebuild of a site that is under way; see admin_svc/rebuild.py.
rebuilds = sa.Table(
    "rebuilds",
    metadata,
    sa.Column("site_id", sa.Integer, primary_key=True, autoincrement=False),
    # Names this rebuild in page tokens.
    _required("number", sa.BigInteger),
    # 1 = queueing events again, 2 = clearing derived rows, 3 = counting again, 4 = done
    _required("phase", sa.SmallInteger),
    # What began before stays as it is, because raw events of then may have gone; NULL = everything is made again.
    sa.Column("horizon", _time),
    # What was counted of this batch and of newer ones is queued again.
    _required("next_batch", sa.BigInteger),
    _required("started_at", _time),
)

ingest_dedupes = sa.Table(
    "ingest_dedupes",
    metadata,
    _required("expires_at", _time),
    _required("site_id", sa.Integer),
    _required("dedupe_key", UUID),
    # serves: ON CONFLICT of ingest; UUIDv7 keys arrive in its order
    sa.PrimaryKeyConstraint("site_id", "dedupe_key"),
    # serves: PruneExpired; grows at its right end
    sa.Index("dedupes_by_expiry", "site_id", "expires_at"),
)

# The hours of which an erasure removed raw events that are counted in rollups: their raw events tell too little.
erased_hours = sa.Table(
    "erased_hours",
    metadata,
    _required("hour", _time),
    _required("site_id", sa.Integer),
    # serves: every report's bounds
    sa.PrimaryKeyConstraint("site_id", "hour"),
)

# What the scheduled jobs did; site 0 = all sites.
job_runs = sa.Table(
    "job_runs",
    metadata,
    _required("started_at", _time),
    _required("finished_at", _time),
    _required("pages", sa.BigInteger),
    _required("rows", sa.BigInteger),
    _required("site_id", sa.Integer),
    _required("job", sa.Text),
    sa.Column("error", sa.Text),
    # serves: the last run of each job, and its end
    sa.PrimaryKeyConstraint("site_id", "job", "started_at"),
)

visitor_counters = sa.Table(
    "visitor_counters",
    metadata,
    sa.Column("site_id", sa.Integer, primary_key=True, autoincrement=False),
    _required("next_no", sa.BigInteger),
)

visitors = sa.Table(
    "visitors",
    metadata,
    _required("first_seen_at", _time),
    _required("last_seen_at", _time),
    sa.Column("identified_at", _time),
    _required("site_id", sa.Integer),
    _required("visitor_no", sa.Integer),
    _required("first_event_id", UUID),
    sa.Column("identified_event_id", UUID),
    _required("visitor_id", sa.Text),
    # The session id of the first event, "" for none: with first_seen_at it names the first session.
    _required("first_session_id", sa.Text),
    sa.Column("user_id", sa.Text),
    sa.Column("traits", JSONB),
    # With last_seen_at, the latest event; NULL on rows older than the column.
    sa.Column("last_event_id", UUID),
    # What the earliest and the latest event say: path, referrer and context, without what is absent.
    sa.Column("first_touch", JSONB),
    sa.Column("last_touch", JSONB),
    # serves: naming the visitor of a session
    sa.PrimaryKeyConstraint("site_id", "visitor_no"),
    # serves: aggregation and raw edges, which know visitors by id
    sa.UniqueConstraint("site_id", "visitor_id", name="visitors_by_id"),
    # serves: ListVisitors and its cursor; clearing what a rebuild makes again
    sa.Index("visitors_by_first_seen", "site_id", "first_seen_at", "visitor_no"),
    # serves: EraseVisitor of a user
    sa.Index("visitors_by_user", "site_id", "user_id", postgresql_where=sa.text("user_id IS NOT NULL")),
    # A visitor's row changes with nearly every page: leave room for the new version beside the old one.
    postgresql_with={"fillfactor": "85"},
)

sessions = sa.Table(
    "sessions",
    metadata,
    _required("started_at", _time),
    _required("ended_at", _time),
    sa.Column("entry_at", _time),
    sa.Column("exit_at", _time),
    _required("visitor_no", sa.Integer),
    _required("site_id", sa.Integer),
    _required("events", sa.Integer),
    _required("pageviews", sa.Integer),
    _required("first_event_id", UUID),
    sa.Column("entry_event_id", UUID),
    sa.Column("exit_event_id", UUID),
    _required("new_visitor", sa.Boolean),
    # "" where the events have none
    _required("session_id", sa.Text),
    sa.Column("event", _key),
    sa.Column("page", _key),
    sa.Column("referrer", _key),
    sa.Column("utm_source", _key),
    sa.Column("utm_medium", _key),
    sa.Column("utm_campaign", _key),
    sa.Column("device", _key),
    sa.Column("browser", _key),
    sa.Column("os", _key),
    sa.Column("country", _key),
    sa.Column("entry_page", _key),
    sa.Column("exit_page", _key),
    # serves: aggregation, which looks for the sessions around an event in its visitor's stream
    sa.PrimaryKeyConstraint("site_id", "visitor_no", "session_id", "started_at"),
    # serves: the raw edges of a range, ListSessions and its cursor
    sa.Index("sessions_by_start", "site_id", "started_at", "visitor_no"),
    postgresql_with={"fillfactor": "85"},
)

rollup_shards = sa.Table(
    "rollup_shards",
    metadata,
    _required("bucket_start", _time),
    _required("duration_us", sa.BigInteger),
    # 0 is the folded row; others are deltas, numbered by the page that wrote them.
    _required("shard", sa.Integer),
    # A day of one key holds up to 2^31 of each: 24,000 events a second. Most rows hold a handful, and there are many.
    _required("events", sa.Integer),
    _required("pageviews", sa.Integer),
    _required("sessions", sa.Integer),
    _required("bounces", sa.Integer),
    _required("new_visitors", sa.Integer),
    _required("site_id", sa.Integer),
    # 1 = hour, 2 = day (only folded ones)
    _required("interval", sa.SmallInteger),
    _required("dimension", sa.SmallInteger),
    _required("key", _key),
    # A form of common/visitor_sets.py; NULL = no visitors.
    sa.Column("visitors", BYTEA),
    # serves: every report: the buckets of a range of one dimension; folding. Pages filled up, for nothing is added to
    # hours that are over
    sa.Index(
        "rollup_rows",
        "site_id",
        "interval",
        "dimension",
        "bucket_start",
        "key",
        unique=True,
        postgresql_where=sa.text("shard = 0"),
        postgresql_with={"fillfactor": "100"},
    ),
    # serves: top lists by events, which read only the first of each day
    sa.Index(
        "rollup_days_by_events",
        "site_id",
        "dimension",
        "bucket_start",
        sa.text("events DESC"),
        postgresql_where=sa.text("interval = 2"),
    ),
    # serves: finding what to fold; reading what is not folded yet. No delta is asked for by its key
    sa.Index("rollup_deltas", "site_id", "dimension", "bucket_start", postgresql_where=sa.text("shard > 0")),
)
