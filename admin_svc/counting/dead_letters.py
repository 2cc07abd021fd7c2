"""Dead letters: events that failed three times. They are listed with their errors and given three more attempts."""

from datetime import datetime, timedelta
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import class_row

from admin_svc.chunk import Chunk
from common.sites import DELETING

DEFAULT_LIMIT = 1_000
MAX_LIMIT = 10_000

RETRIED_AFTER = timedelta(hours=1)
"""How long after its failure the schedule tries a dead letter again."""

# The sites with a dead letter that failed by a time.
_SITES_TO_RETRY = f"""
SELECT s.site_id FROM sites s
WHERE s.status <> {DELETING}
  AND EXISTS (SELECT FROM failed_events f WHERE f.site_id = s.site_id AND f.failed_at <= %(failed_before)s)
ORDER BY s.site_id
"""

# Removes the first dead letters and queues each as a pending batch of one event, because the other events of its batch
# are aggregated. They are deleted by ctid, because a join with the chunk would read the whole table.
_REQUEUE = """
WITH chunk AS (
    SELECT ctid FROM failed_events
    WHERE site_id = %(site_id)s AND failed_at <= %(failed_before)s
    ORDER BY batch_id, ord LIMIT %(rows)s FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM failed_events WHERE site_id = %(site_id)s AND ctid = ANY(ARRAY(SELECT ctid FROM chunk))
    RETURNING partition, batch_id, ord, received_at, replay
)
INSERT INTO pending_batches (site_id, partition, batch_id, first_ord, last_ord, received_at, not_before, replay)
SELECT %(site_id)s, partition, batch_id, ord, ord, received_at, %(now)s, replay FROM gone
"""

# Whether any is left, in the order of the index: EXISTS alone may read the table from its beginning, with rows of other
# sites and dead rows.
_FIRST_LEFT = """
SELECT 1 FROM failed_events WHERE site_id = %(site_id)s AND failed_at <= %(failed_before)s
ORDER BY batch_id, ord LIMIT 1
"""

# A page of dead letters after the cursor.
_LIST = """
SELECT f.batch_id, f.ord, coalesce(e.event_id_text, e.event_id::text) AS event_id, e.visitor_id, e.occurred_at,
       f.received_at, f.failed_at, f.attempts, f.error
FROM failed_events f JOIN events e ON e.site_id = %(site_id)s AND e.batch_id = f.batch_id AND e.ord = f.ord
WHERE f.site_id = %(site_id)s AND (f.batch_id, f.ord) > (%(batch_id)s, %(ord)s)
ORDER BY f.batch_id, f.ord LIMIT %(rows)s
"""

Connection = psycopg.Connection[Any]


class Requeued(NamedTuple):
    """Numbers of events, by what was done with them."""

    requeued: int = 0


class DeadLetter(NamedTuple):
    """An event that failed three times, with its last error."""

    batch_id: int
    ord: int
    event_id: str
    visitor_id: str
    occurred_at: datetime
    received_at: datetime
    failed_at: datetime
    attempts: int
    error: str


def sites_to_retry(connection: Connection, now: datetime) -> list[int]:
    """The numbers of the sites with a dead letter that `requeue_old` would queue."""
    return [row[0] for row in connection.execute(_SITES_TO_RETRY, {"failed_before": now - RETRIED_AFTER})]


def requeue_old(connection: Connection, site_id: int, now: datetime, limit: int) -> Chunk[Requeued]:
    """Queues up to `limit` dead letters that failed at least an hour ago."""
    return requeue(connection, site_id, now, limit, now - RETRIED_AFTER)


def requeue(
    connection: Connection, site_id: int, now: datetime, limit: int, failed_before: datetime | None = None
) -> Chunk[Requeued]:
    """Queues up to `limit` dead letters; with `failed_before`, only those that failed by then.

    `connection` is in autocommit. Raises the errors of DatabaseFault.
    """
    parameters = {"site_id": site_id, "now": now, "rows": limit, "failed_before": failed_before or "infinity"}
    with connection.transaction():
        requeued = connection.execute(_REQUEUE, parameters).rowcount
        return Chunk(Requeued(requeued), connection.execute(_FIRST_LEFT, parameters).fetchone() is not None)


def list_dead_letters(connection: Connection, site_id: int, after: tuple[int, int], count: int) -> list[DeadLetter]:
    """Up to `count` dead letters after the (batch, position) `after`, in that order."""
    parameters = {"site_id": site_id, "batch_id": after[0], "ord": after[1], "rows": count}
    with connection.cursor(row_factory=class_row(DeadLetter)) as cursor:
        return cursor.execute(_LIST, parameters).fetchall()
