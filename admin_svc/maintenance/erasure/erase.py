"""Erasing a visitor, or every visitor of a user: all rows that name them are deleted, and rollups stay as they are.

An erasure works in chunks. Each is one transaction that holds the site's lock exclusively. In this order:

1. Pending events are aggregated, so that all rows of the visitors can be found and erasing changes no count.
2. Events that could not be aggregated (dead letters, and single events that wait for their next attempt) are searched.
3. Each visitor is erased. There is no index of events by visitor, but each aggregated event lies within a session of
   its visitor. So the events of the time span of each session are searched, and then the session is deleted. The
   visitor's row is deleted when no session is left, so an interrupted erasure can be started again with the same
   visitor.

An hour from which aggregated events are deleted is recorded in `erased_hours`. It is incomplete: its raw events hold
less than its rollups. The rollups hold a number of the visitor that no row names any more.
"""

from datetime import datetime
from typing import Any, NamedTuple

import psycopg

from admin_svc.chunk import Chunk, Position
from admin_svc.counting.aggregate import Aggregator
from admin_svc.maintenance.erasure.events import UNAGGREGATED_TABLES, Budget, Subject, erase_unaggregated
from admin_svc.maintenance.erasure.visitors import Visitors
from admin_svc.site_lock import hold, refuse_under_rebuild

DEFAULT_LIMIT = 5_000
MAX_LIMIT = 20_000
LOOK_PER_ROW = 20
"""How many events of any visitor a chunk looks at, for each row that it may delete."""
PARTITION_WAIT_MS = 5_000
"""How long a chunk waits if other workers hold every partition of the site that has work."""

# The stages in order: aggregating, each of UNAGGREGATED_TABLES, visitors.
_AGGREGATING = 0
_VISITORS = len(UNAGGREGATED_TABLES) + 1

# The newest batch with pending events or dead letters. Later batches came in after the erasure began.
_NEWEST = """
SELECT greatest((SELECT max(batch_id) FROM pending_batches WHERE site_id = %(site_id)s),
                (SELECT max(batch_id) FROM failed_events WHERE site_id = %(site_id)s), -1)
"""

# Whether any event of the batches up to that one is still to be aggregated. A single event that waits for its next
# attempt does not matter.
_UNAGGREGATED = """
SELECT EXISTS (SELECT FROM pending_batches WHERE site_id = %(site_id)s AND batch_id <= %(newest)s
                 AND (not_before <= %(now)s OR first_ord < last_ord))
"""

Connection = psycopg.Connection[Any]


class Erased(NamedTuple):
    """Numbers of rows deleted, by kind."""

    events: int = 0
    sessions: int = 0
    visitors: int = 0


def erase(
    connection: Connection,
    aggregator: Aggregator,
    site_id: int,
    now: datetime,
    limit: int,
    subject: Subject,
    position: Position = (),
) -> Chunk[Erased]:
    """Erases up to `limit` rows of the subject, from `position` on. `connection` is in autocommit.

    Raises SiteBusy while a rebuild is under way, and the errors of DatabaseFault. In both cases nothing was erased.
    """
    newest, stage, *place = position or (_one(connection, _NEWEST, {"site_id": site_id}), _AGGREGATING)
    aggregated, worked = 0, True
    while worked and aggregated < limit:
        with connection.transaction():
            hold(connection, site_id)
            refuse_under_rebuild(connection, site_id)
            where = {"site_id": site_id, "newest": newest, "now": now}
            if stage != _AGGREGATING or not _one(connection, _UNAGGREGATED, where):
                return _erase(connection, site_id, subject, limit, newest, stage, tuple(place))
        chunk = aggregator.aggregate(connection, site_id, now, limit, wait_ms=PARTITION_WAIT_MS)
        aggregated, worked = aggregated + chunk.done.aggregated, chunk.has_more
    return Chunk(Erased(), True, (newest, _AGGREGATING))


def _erase(
    connection: Connection, site_id: int, subject: Subject, limit: int, newest: int, stage: int, place: Position
) -> Chunk[Erased]:
    """Does one chunk from `place` in `stage` on, in the caller's transaction, which holds the site."""
    budget = Budget(limit, LOOK_PER_ROW * limit)
    events = 0
    for number, table in enumerate(UNAGGREGATED_TABLES, start=_AGGREGATING + 1):
        if number < stage:
            continue
        after = place if number == stage else (-1, -1)
        deleted, left = erase_unaggregated(connection, table, site_id, subject, newest, after, budget)
        events += deleted
        if left is not None:
            return Chunk(Erased(events), True, (newest, number, *left))
    visitors = Visitors(connection, site_id, subject, budget)
    left = visitors.erase(place if stage == _VISITORS else ())
    done = Erased(events + visitors.events, visitors.sessions, visitors.visitors)
    return Chunk(done, left is not None, () if left is None else (newest, _VISITORS, *left))


def _one(connection: Connection, statement: str, parameters: dict[str, Any]) -> Any:
    row = connection.execute(statement, parameters).fetchone()
    assert row is not None
    return row[0]
