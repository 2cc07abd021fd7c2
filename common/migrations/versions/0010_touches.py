"""First and last touch of visitors from before migration 0003, as far as their raw events are still there."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_ROWS = 5_000

_CONTEXT = ("source", "device", "browser", "os", "country", "utm_source", "utm_medium", "utm_campaign")
_TOUCH = ", ".join(f"'{name}', e.{name}" for name in ("path", "referrer", *_CONTEXT))

# The last of a site's next 5,000 visitor numbers after a number.
_NEXT = sa.text("""
SELECT max(visitor_no) FROM (
    SELECT visitor_no FROM visitors WHERE site_id = :site_id AND visitor_no > :after ORDER BY visitor_no LIMIT :rows
) AS some_visitors
""")

_AGGREGATED = """
NOT EXISTS (SELECT FROM pending_batches p WHERE p.site_id = :site_id AND p.batch_id = e.batch_id
              AND e.ord BETWEEN p.first_ord AND p.last_ord)
AND NOT EXISTS (SELECT FROM failed_events f WHERE f.site_id = :site_id AND f.batch_id = e.batch_id AND f.ord = e.ord)
"""

# Of events at one instant the one with the smaller id is earlier. Ids are compared as text, as in aggregation.
_FILL = sa.text(f"""
UPDATE visitors v
SET first_touch = coalesce(v.first_touch, (
        SELECT jsonb_strip_nulls(jsonb_build_object({_TOUCH})) FROM events e
        WHERE e.site_id = :site_id AND e.occurred_at = v.first_seen_at AND e.visitor_id = v.visitor_id
          AND e.event_id = v.first_event_id AND {_AGGREGATED}
        LIMIT 1)),
    last_event_id = last.event_id, last_touch = last.touch
FROM visitors w LEFT JOIN LATERAL (
    SELECT e.event_id, jsonb_strip_nulls(jsonb_build_object({_TOUCH})) AS touch FROM events e
    WHERE e.site_id = :site_id AND e.occurred_at = w.last_seen_at AND e.visitor_id = w.visitor_id AND {_AGGREGATED}
    ORDER BY e.event_id::text DESC LIMIT 1
) AS last ON true
WHERE v.site_id = :site_id AND w.site_id = :site_id AND w.visitor_no = v.visitor_no
  AND v.visitor_no > :after AND v.visitor_no <= :until AND v.last_touch IS NULL
""")


def upgrade() -> None:
    """Commits after every 5,000 visitors, so that services can work meanwhile. A second start skips what is done."""
    with op.get_context().autocommit_block():
        connection = op.get_bind()
        for site_id in connection.execute(sa.text("SELECT site_id FROM sites ORDER BY site_id")).scalars().all():
            after = -1
            parameters = {"site_id": site_id, "rows": _ROWS}
            while (until := connection.execute(_NEXT, {**parameters, "after": after}).scalar()) is not None:
                connection.execute(_FILL, {"site_id": site_id, "after": after, "until": until})
                after = until


def downgrade() -> None:
    """Does nothing: the values are right in the schema before it, too."""
