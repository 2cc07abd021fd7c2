"""The queue of aggregation: claiming a page of batches, and what becomes of a page that fails.

A page that fails is taken apart until the one bad event is alone: its batches are marked as suspects and
claimed one at a time, a suspect that fails is split in two, and a single event that fails is tried again
after 5 s, then 10 s, and set aside after its third attempt. Its neighbours go through meanwhile.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import psycopg

from admin_svc.error_text import error_text
from admin_svc.site_gate import COUNTING
from common.db import LOCK_TIMEOUT_MS
from common.locks import lane_lock
from common.sites import DELETING

MAX_ATTEMPTS = 3
FIRST_BACKOFF = timedelta(seconds=5)

# Of a pending batch p: a rebuild lets it be claimed. While one queues or clears nothing is, and then its replays come
# first (see rebuild.py).
_CLAIMABLE = f"""
NOT EXISTS (SELECT FROM rebuilds r WHERE r.site_id = %(site_id)s AND r.phase < {COUNTING})
AND (p.replay OR NOT EXISTS (SELECT FROM pending_batches q WHERE q.site_id = %(site_id)s AND q.replay))
"""

# Which sites have something due.
_SITES_WITH_WORK = f"""
SELECT s.site_id FROM sites s
WHERE s.status <> {DELETING}
  AND EXISTS (SELECT FROM pending_batches p WHERE p.site_id = s.site_id AND p.not_before <= %(now)s)
ORDER BY s.site_id
"""

# Which lanes of a site have something due, the longest waiting first.
_LANES_WITH_WORK = f"""
SELECT lane FROM pending_batches p WHERE site_id = %(site_id)s AND not_before <= %(now)s AND {_CLAIMABLE}
GROUP BY lane ORDER BY min(received_at)
"""

# The oldest due batches of a lane. Whoever deletes a site or erases a visitor holds row locks: step aside.
_CLAIM = f"""
SELECT batch_id, first_ord, last_ord, attempts, last_error IS NOT NULL, replay
FROM pending_batches p
WHERE site_id = %(site_id)s AND lane = %(lane)s AND not_before <= %(now)s AND {_CLAIMABLE}
ORDER BY received_at, batch_id, first_ord LIMIT %(rows)s
FOR UPDATE SKIP LOCKED
"""

# Takes batches off the queue.
_DELETE = """
DELETE FROM pending_batches p USING unnest(%(batch_ids)s::bigint[], %(firsts)s::int[]) AS done (batch_id, first_ord)
WHERE p.site_id = %(site_id)s AND p.lane = %(lane)s AND p.batch_id = done.batch_id AND p.first_ord = done.first_ord
"""

# Marks the batches of a failed page: from now on each is claimed alone.
_SUSPECT = """
UPDATE pending_batches p SET last_error = %(error)s
FROM unnest(%(batch_ids)s::bigint[], %(firsts)s::int[]) AS bad (batch_id, first_ord)
WHERE p.site_id = %(site_id)s AND p.lane = %(lane)s AND p.batch_id = bad.batch_id AND p.first_ord = bad.first_ord
"""

# Cuts a suspect in two: this makes the second half a row of its own, _SHORTEN leaves the first.
_ADD_SECOND_HALF = """
INSERT INTO pending_batches (site_id, lane, batch_id, first_ord, last_ord, received_at, not_before, last_error, replay)
SELECT site_id, lane, batch_id, %(middle)s, last_ord, received_at, %(now)s, %(error)s, replay
FROM pending_batches
WHERE site_id = %(site_id)s AND lane = %(lane)s AND batch_id = %(batch_id)s
  AND first_ord = %(first)s AND last_ord = %(last)s
"""
_SHORTEN = """
UPDATE pending_batches SET last_ord = %(middle)s - 1, last_error = %(error)s
WHERE site_id = %(site_id)s AND lane = %(lane)s AND batch_id = %(batch_id)s
  AND first_ord = %(first)s AND last_ord = %(last)s
"""

# Lets a single bad event wait before it is tried again.
_BACK_OFF = """
UPDATE pending_batches SET attempts = attempts + 1, not_before = %(not_before)s, last_error = %(error)s
WHERE site_id = %(site_id)s AND lane = %(lane)s AND batch_id = %(batch_id)s
  AND first_ord = %(first)s AND last_ord = %(last)s
"""

# Sets a bad event aside.
_SET_ASIDE = """
INSERT INTO failed_events (site_id, batch_id, ord, lane, attempts, received_at, failed_at, error, replay)
SELECT site_id, batch_id, first_ord, lane, attempts + 1, received_at, %(now)s, %(error)s, replay
FROM pending_batches
WHERE site_id = %(site_id)s AND lane = %(lane)s AND batch_id = %(batch_id)s
  AND first_ord = %(first)s AND last_ord = %(last)s
"""

# How much of a site is pending, and how much of that is due.
_BACKLOG = f"""
SELECT coalesce(sum(last_ord - first_ord + 1), 0)::bigint,
       coalesce(sum(last_ord - first_ord + 1) FILTER (WHERE not_before <= %(now)s AND {_CLAIMABLE}), 0)::bigint
FROM pending_batches p WHERE site_id = %(site_id)s
"""


class PendingBatch(NamedTuple):
    """The events first_ord … last_ord of one batch."""

    batch_id: int
    first_ord: int
    last_ord: int
    attempts: int
    suspect: bool
    replay: bool
    """Whether a rebuild counts it again."""

    @property
    def events(self) -> int:
        """How many events it holds."""
        return self.last_ord - self.first_ord + 1


Connection = psycopg.Connection[Any]


def sites_with_work(connection: Connection, now: datetime) -> list[int]:
    """The sites with something due, by number."""
    return [row[0] for row in connection.execute(_SITES_WITH_WORK, {"now": now})]


def lanes_with_work(connection: Connection, site_id: int, now: datetime) -> list[int]:
    """The site's lanes with something due, the longest waiting first."""
    return [row[0] for row in connection.execute(_LANES_WITH_WORK, {"site_id": site_id, "now": now})]


def backlog(connection: Connection, site_id: int, now: datetime) -> tuple[int, int]:
    """Events of the site that are pending, and those of them that are due and may be claimed."""
    row = connection.execute(_BACKLOG, {"site_id": site_id, "now": now}).fetchone()
    assert row is not None
    return row[0], row[1]


def lock_lane(connection: Connection, site_id: int, lane: int, *, wait_ms: int) -> bool:
    """Takes the lane for the rest of the transaction, waiting at most `wait_ms`; False if another has it."""
    if not wait_ms:
        row = connection.execute("SELECT pg_try_advisory_xact_lock(%s, %s)", lane_lock(site_id, lane)).fetchone()
        assert row is not None
        return bool(row[0])
    connection.execute("SELECT set_config('lock_timeout', %s, true)", (f"{wait_ms}ms",))
    try:
        with connection.transaction():  # a savepoint: running out of patience must not end the page's transaction
            connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", lane_lock(site_id, lane))
    except psycopg.errors.LockNotAvailable:
        return False
    connection.execute("SELECT set_config('lock_timeout', %s, true)", (f"{LOCK_TIMEOUT_MS}ms",))
    return True


def claim(connection: Connection, site_id: int, lane: int, now: datetime, limit: int) -> list[PendingBatch]:
    """Whole due batches of the lane, oldest first, at least one, until `limit` events are reached."""
    parameters = {"site_id": site_id, "lane": lane, "now": now, "rows": min(limit, 1000)}
    due = [PendingBatch._make(row) for row in connection.execute(_CLAIM, parameters)]
    if due and due[0].suspect:
        return due[:1]
    page: list[PendingBatch] = []
    events = 0
    for batch in due:
        if batch.suspect or events >= limit:
            break
        page.append(batch)
        events += batch.events
    return page


def done(connection: Connection, site_id: int, lane: int, page: Sequence[PendingBatch]) -> None:
    """Takes the page off the queue."""
    connection.execute(_DELETE, _parameters(site_id, lane, page))


def record_failure(
    connection: Connection,
    site_id: int,
    lane: int,
    page: Sequence[PendingBatch],
    now: datetime,
    error: Exception,
) -> int:
    """Takes a failed page apart, in the caller's transaction; returns how many events were set aside."""
    message = error_text(error)
    if len(page) > 1:
        connection.execute(_SUSPECT, {**_parameters(site_id, lane, page), "error": message})
        return 0
    [batch] = page
    where: dict[str, object] = {
        "site_id": site_id,
        "lane": lane,
        "batch_id": batch.batch_id,
        "first": batch.first_ord,
        "last": batch.last_ord,
        "error": message,
        "now": now,
    }
    if batch.events > 1:
        where["middle"] = batch.first_ord + batch.events // 2
        connection.execute(_ADD_SECOND_HALF, where)
        connection.execute(_SHORTEN, where)
        return 0
    if batch.attempts + 1 < MAX_ATTEMPTS:
        where["not_before"] = now + FIRST_BACKOFF * 2**batch.attempts
        connection.execute(_BACK_OFF, where)
        return 0
    connection.execute(_SET_ASIDE, where)
    done(connection, site_id, lane, page)
    return 1


def _parameters(site_id: int, lane: int, page: Sequence[PendingBatch]) -> dict[str, object]:
    return {
        "site_id": site_id,
        "lane": lane,
        "batch_ids": [batch.batch_id for batch in page],
        "firsts": [batch.first_ord for batch in page],
    }
