"""Isolates the event that made a chunk of aggregation fail.

The batches of the chunk are marked as suspects and from then on claimed one at a time. A suspect that fails is split
in two. A single event that fails waits 5 s, then 10 s, and becomes a dead letter after its third attempt. Meanwhile all
other events of the chunk are aggregated.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import psycopg

from admin_svc.counting.queue import PendingBatch, named_batches, remove
from admin_svc.error_text import error_text

MAX_ATTEMPTS = 3
FIRST_BACKOFF = timedelta(seconds=5)

# Marks the batches of a failed chunk as suspects: from now on each is claimed alone.
_SUSPECT = """
UPDATE pending_batches p SET last_error = %(error)s
FROM unnest(%(batch_ids)s::bigint[], %(firsts)s::int[]) AS bad (batch_id, first_ord)
WHERE p.site_id = %(site_id)s AND p.partition = %(partition)s AND p.batch_id = bad.batch_id
  AND p.first_ord = bad.first_ord
"""

_THE_BATCH = """
site_id = %(site_id)s AND partition = %(partition)s AND batch_id = %(batch_id)s
  AND first_ord = %(first)s AND last_ord = %(last)s
"""

# These two split a suspect: the second half becomes a row of its own, and the row of the first is shortened.
_ADD_SECOND_HALF = f"""
INSERT INTO pending_batches
    (site_id, partition, batch_id, first_ord, last_ord, received_at, not_before, last_error, replay)
SELECT site_id, partition, batch_id, %(middle)s, last_ord, received_at, %(now)s, %(error)s, replay
FROM pending_batches WHERE {_THE_BATCH}
"""
_SHORTEN = f"UPDATE pending_batches SET last_ord = %(middle)s - 1, last_error = %(error)s WHERE {_THE_BATCH}"

# Delays the next attempt at a single event.
_BACK_OFF = f"""
UPDATE pending_batches SET attempts = attempts + 1, not_before = %(not_before)s, last_error = %(error)s
WHERE {_THE_BATCH}
"""

# Makes a single event a dead letter.
_ADD_DEAD_LETTER = f"""
INSERT INTO failed_events (site_id, batch_id, ord, partition, attempts, received_at, failed_at, error, replay)
SELECT site_id, batch_id, first_ord, partition, attempts + 1, received_at, %(now)s, %(error)s, replay
FROM pending_batches WHERE {_THE_BATCH}
"""

Connection = psycopg.Connection[Any]


def take_apart(
    connection: Connection,
    site_id: int,
    partition: int,
    failed: Sequence[PendingBatch],
    now: datetime,
    error: Exception,
) -> int:
    """Does the next step with the batches of a failed chunk, in the caller's transaction, which has entered the site.

    Several batches are marked as suspects, one batch is split, and a single event is delayed or becomes a dead letter.
    Returns how many events became dead letters: 0 or 1.
    """
    message = error_text(error)
    if len(failed) > 1:
        connection.execute(_SUSPECT, {**named_batches(site_id, partition, failed), "error": message})
        return 0
    [batch] = failed
    parameters: dict[str, object] = {
        "site_id": site_id,
        "partition": partition,
        "batch_id": batch.batch_id,
        "first": batch.first_ord,
        "last": batch.last_ord,
        "error": message,
        "now": now,
    }
    if batch.events > 1:
        parameters["middle"] = batch.first_ord + batch.events // 2
        connection.execute(_ADD_SECOND_HALF, parameters)
        connection.execute(_SHORTEN, parameters)
        return 0
    if batch.attempts + 1 < MAX_ATTEMPTS:
        parameters["not_before"] = now + FIRST_BACKOFF * 2**batch.attempts
        connection.execute(_BACK_OFF, parameters)
        return 0
    added = connection.execute(_ADD_DEAD_LETTER, parameters).rowcount
    remove(connection, site_id, partition, failed)
    return added
