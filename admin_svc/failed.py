"""Events that failed three times: listed with their errors, and given another three attempts."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import psycopg
from footfall.admin.v1 import admin_pb2
from psycopg.rows import namedtuple_row

from common.timestamps import to_timestamp

DEFAULT_LIMIT = 1_000
MAX_LIMIT = 10_000

# Takes the first failed events off their list and queues them; each alone, for its neighbours were counted. By ctid:
# joined to the page, the whole table would be read.
_REQUEUE = """
WITH page AS (
    SELECT ctid FROM failed_events
    WHERE site_id = %(site_id)s AND failed_at <= %(failed_before)s
    ORDER BY batch_id, ord LIMIT %(rows)s FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM failed_events WHERE site_id = %(site_id)s AND ctid = ANY(ARRAY(SELECT ctid FROM page))
    RETURNING lane, batch_id, ord, received_at, replay
)
INSERT INTO pending_batches (site_id, lane, batch_id, first_ord, last_ord, received_at, not_before, replay)
SELECT %(site_id)s, lane, batch_id, ord, ord, received_at, %(now)s, replay FROM gone
"""

# In the order of its index: as a mere EXISTS it may read the table from its beginning, other sites' rows and dead ones.
_FIRST_LEFT = """
SELECT 1 FROM failed_events WHERE site_id = %(site_id)s AND failed_at <= %(failed_before)s
ORDER BY batch_id, ord LIMIT 1
"""

# A page of failed events after the cursor.
_LIST = """
SELECT f.batch_id, f.ord, coalesce(e.event_id_text, e.event_id::text) AS event_id, e.visitor_id, e.occurred_at,
       f.received_at, f.failed_at, f.attempts, f.error
FROM failed_events f JOIN events e ON e.site_id = %(site_id)s AND e.batch_id = f.batch_id AND e.ord = f.ord
WHERE f.site_id = %(site_id)s AND (f.batch_id, f.ord) > (%(batch_id)s, %(ord)s)
ORDER BY f.batch_id, f.ord LIMIT %(rows)s
"""

Connection = psycopg.Connection[Any]


def retry_once(
    connection: Connection, site_id: int, now: datetime, limit: int, failed_before: datetime | None = None
) -> tuple[int, bool]:
    """Requeues up to `limit` failed events, of those that failed by `failed_before` if given.

    Returns how many, and whether others are left; `connection` is in autocommit.
    """
    parameters = {"site_id": site_id, "now": now, "rows": limit, "failed_before": failed_before or "infinity"}
    requeued = connection.execute(_REQUEUE, parameters).rowcount
    return requeued, connection.execute(_FIRST_LEFT, parameters).fetchone() is not None


def list_failed(connection: Connection, site_id: int, after: Sequence[Any], count: int) -> list[Any]:
    """Up to `count` failed events stored after the one at (batch, position) `after`."""
    batch_id, ord_ = after
    with connection.cursor(row_factory=namedtuple_row) as cursor:
        parameters = {"site_id": site_id, "batch_id": batch_id, "ord": ord_, "rows": count}
        return cursor.execute(_LIST, parameters).fetchall()


def to_proto(row: Any) -> admin_pb2.FailedEvent:
    """What is told of a failed event."""
    return admin_pb2.FailedEvent(
        event_id=row.event_id,
        visitor_id=row.visitor_id,
        occurred_at=to_timestamp(row.occurred_at),
        received_at=to_timestamp(row.received_at),
        failed_at=to_timestamp(row.failed_at),
        attempts=row.attempts,
        error=row.error,
    )
