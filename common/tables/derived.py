"""The derived tables: visitors, sessions and rollups. A rebuild can make them again from raw events."""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import BYTEA, JSONB, UUID

from common.tables.columns import key, metadata, required, time

# One number for each chunk of aggregation: the delta_no of all its deltas. Numbers begin again after 2^31; deltas are
# compacted long before that.
delta_numbers = sa.Sequence("delta_numbers", metadata=metadata, data_type=sa.Integer, cycle=True)

visitor_counters = sa.Table(
    "visitor_counters",
    metadata,
    sa.Column("site_id", sa.Integer, primary_key=True, autoincrement=False),
    required("next_no", sa.BigInteger),
)

visitors = sa.Table(
    "visitors",
    metadata,
    required("first_seen_at", time),
    required("last_seen_at", time),
    sa.Column("identified_at", time),
    required("site_id", sa.Integer),
    required("visitor_no", sa.Integer),
    required("first_event_id", UUID),
    sa.Column("identified_event_id", UUID),
    required("visitor_id", sa.Text),
    # The session id of the first event, "" for none. With first_seen_at it identifies the first session.
    required("first_session_id", sa.Text),
    sa.Column("user_id", sa.Text),
    sa.Column("traits", JSONB),
    # With last_seen_at it identifies the latest event. NULL in old rows whose raw event was gone at migration 0010.
    sa.Column("last_event_id", UUID),
    # Path, referrer and context of the earliest and of the latest event, without absent fields.
    sa.Column("first_touch", JSONB),
    sa.Column("last_touch", JSONB),
    # serves: naming the visitor of a session
    sa.PrimaryKeyConstraint("site_id", "visitor_no"),
    # serves: aggregation and raw edges, which look visitors up by id
    sa.UniqueConstraint("site_id", "visitor_id", name="visitors_by_id"),
    # serves: ListVisitors and its cursor; the visitors that a rebuild clears
    sa.Index("visitors_by_first_seen", "site_id", "first_seen_at", "visitor_no"),
    # serves: EraseVisitor by user id
    sa.Index("visitors_by_user", "site_id", "user_id", postgresql_where=sa.text("user_id IS NOT NULL")),
    # A visitor's row changes with nearly every chunk, so its page keeps room for the new version.
    postgresql_with={"fillfactor": "85"},
)

sessions = sa.Table(
    "sessions",
    metadata,
    required("started_at", time),
    required("ended_at", time),
    sa.Column("entry_at", time),
    sa.Column("exit_at", time),
    required("visitor_no", sa.Integer),
    required("site_id", sa.Integer),
    required("events", sa.Integer),
    required("pageviews", sa.Integer),
    required("first_event_id", UUID),
    sa.Column("entry_event_id", UUID),
    sa.Column("exit_event_id", UUID),
    required("new_visitor", sa.Boolean),
    # "" where the events have none
    required("session_id", sa.Text),
    sa.Column("event", key),
    sa.Column("page", key),
    sa.Column("referrer", key),
    sa.Column("utm_source", key),
    sa.Column("utm_medium", key),
    sa.Column("utm_campaign", key),
    sa.Column("device", key),
    sa.Column("browser", key),
    sa.Column("os", key),
    sa.Column("country", key),
    sa.Column("entry_page", key),
    sa.Column("exit_page", key),
    # serves: aggregation, which looks for the sessions around an event in its visitor's stream
    sa.PrimaryKeyConstraint("site_id", "visitor_no", "session_id", "started_at"),
    # serves: the raw edges of a range, ListSessions and its cursor
    sa.Index("sessions_by_start", "site_id", "started_at", "visitor_no"),
    postgresql_with={"fillfactor": "85"},
)

rollup_shards = sa.Table(
    "rollup_shards",
    metadata,
    required("bucket_start", time),
    required("duration_us", sa.BigInteger),
    # 0 is the compacted row; others are deltas, numbered by the chunk that wrote them.
    required("delta_no", sa.Integer),
    # Four bytes each: up to 2^31 for a day of one key, which is 24,000 events a second. Most of the many rows hold a
    # handful.
    required("events", sa.Integer),
    required("pageviews", sa.Integer),
    required("sessions", sa.Integer),
    required("bounces", sa.Integer),
    required("new_visitors", sa.Integer),
    required("site_id", sa.Integer),
    # A RollupInterval of common/intervals.py; days have no deltas.
    required("interval", sa.SmallInteger),
    required("dimension", sa.SmallInteger),
    required("key", key),
    # A form of common/visitor_sets.py; NULL = no visitors.
    sa.Column("visitors", BYTEA),
    # serves: every report (the buckets of a range of one dimension); compaction. Its pages are filled completely,
    # because hours that are over get no more rows
    sa.Index(
        "rollup_rows",
        "site_id",
        "interval",
        "dimension",
        "bucket_start",
        "key",
        unique=True,
        postgresql_where=sa.text("delta_no = 0"),
        postgresql_with={"fillfactor": "100"},
    ),
    # serves: top lists by events, which read only the first rows of each day
    sa.Index(
        "rollup_days_by_events",
        "site_id",
        "dimension",
        "bucket_start",
        sa.text("events DESC"),
        postgresql_where=sa.text("interval = 2"),
    ),
    # serves: finding deltas to compact; reading those not yet compacted. No delta is searched for by its key
    sa.Index("rollup_deltas", "site_id", "dimension", "bucket_start", postgresql_where=sa.text("delta_no > 0")),
)
