"""Erasing a visitor, or every visitor of a user: all that names them goes, the counts they are part of stay.

In pages, each in one transaction that holds the site alone:

1. What is pending is counted first, so that all that the site has of its visitors can be found, and so that erasing
   changes no count.
2. Events that cannot be counted stand aside, failed or waiting for their next attempt. They are looked through.
3. Visitor by visitor: each counted event lies within one of its visitor's sessions, so a session is where the
   events are looked for, by time, for there is no index of events by visitor. Then the session goes. The visitor's
   row goes when no session is left, so that an erasure that was interrupted can simply be started again.

An hour of which counted events went is remembered in `erased_hours`: parts of it can no longer be told from raw
events. Its rollups stay, for they hold a number that names nobody any more.
"""

from datetime import datetime
from typing import Any, NamedTuple

import psycopg
from footfall.admin.v1 import admin_pb2

from admin_svc.aggregate import Aggregator
from admin_svc.erased_events import Budget, erase_aside
from admin_svc.erased_visitors import Subject, Visitors
from admin_svc.site_gate import hold, refuse_under_rebuild
from common.errors import Reason, invalid
from common.page_tokens import Cursor

DEFAULT_LIMIT = 5_000
MAX_LIMIT = 20_000
LOOK_PER_ROW = 20
"""Events of anybody that a page looks at, for each row it may delete."""
_LANE_PATIENCE_MS = 5_000

# Stages, in their order.
_COUNT, _FAILED, _WAITING, _VISITORS = range(4)
_TABLES = {_FAILED: "failed_events", _WAITING: "pending_batches"}

# The newest batch that is pending or failed: what comes later came after the erasure began.
_NEWEST = """
SELECT greatest((SELECT max(batch_id) FROM pending_batches WHERE site_id = %(site_id)s),
                (SELECT max(batch_id) FROM failed_events WHERE site_id = %(site_id)s), -1)
"""

# Whether anything of those batches is still to be counted; a single event that waits for its next attempt is not.
_UNCOUNTED = """
SELECT EXISTS (SELECT FROM pending_batches WHERE site_id = %(site_id)s AND batch_id <= %(newest)s
                 AND (not_before <= %(now)s OR first_ord < last_ord))
"""

Connection = psycopg.Connection[Any]


class Page(NamedTuple):
    """What one call removed."""

    events: int
    sessions: int
    visitors: int
    cursor: Cursor | None
    """Where the next page goes on; None = everything is gone."""


def subject_of(request: admin_pb2.EraseVisitorRequest) -> Subject:
    """Whom the request names. Raises CallError."""
    field = request.WhichOneof("subject")
    value = "" if field is None else str(getattr(request, field))
    if field is None or not value:
        raise invalid(field or "visitor_id", Reason.FIELD_REQUIRED, "is empty; name a visitor_id or a user_id")
    if "\0" in value:
        raise invalid(field, Reason.TEXT_HAS_NUL, "holds a NUL character; remove it")
    return Subject(field, value)


def run_once(
    connection: Connection,
    aggregator: Aggregator,
    site_id: int,
    now: datetime,
    limit: int,
    subject: Subject,
    cursor: Cursor | None,
) -> Page:
    """Erases up to `limit` rows, from where `cursor` (of the page before) says; `connection` is in autocommit.

    Raises CallError (UNAVAILABLE) while a rebuild is under way, and a DatabaseFault; then nothing was erased.
    """
    newest, stage, *position = cursor or [_one(connection, _NEWEST, {"site_id": site_id}), _COUNT]
    counted, worked = 0, True
    while worked and counted < limit:
        with connection.transaction():
            hold(connection, site_id)
            refuse_under_rebuild(connection, site_id)
            where = {"site_id": site_id, "newest": newest, "now": now}
            if stage != _COUNT or not _one(connection, _UNCOUNTED, where):
                return _erase(connection, site_id, subject, limit, int(newest), int(stage), position)
        page = aggregator.run_site_once(connection, site_id, now, limit, wait_ms=_LANE_PATIENCE_MS)
        counted, worked = counted + page.aggregated, page.worked
    return Page(0, 0, 0, [newest, _COUNT])


def _erase(
    connection: Connection, site_id: int, subject: Subject, limit: int, newest: int, stage: int, position: Cursor
) -> Page:
    """One page from a position in a stage on, in the transaction that holds the site."""
    budget = Budget(limit, LOOK_PER_ROW * limit)
    events = 0
    for aside in range(max(stage, _FAILED), _VISITORS):
        batch_id, ord_ = position if aside == stage else (-1, -1)
        after = int(batch_id), int(ord_)
        deleted, left = erase_aside(connection, _TABLES[aside], site_id, subject.parameters, newest, after, budget)
        events += deleted
        if left is not None:
            return Page(events, 0, 0, [newest, aside, *left])
    visitors = Visitors(connection, site_id, subject, budget)
    going_on = visitors.erase(position if stage == _VISITORS else [])
    cursor = None if going_on is None else [newest, _VISITORS, *going_on]
    return Page(events + visitors.events, visitors.sessions, visitors.visitors, cursor)


def _one(connection: Connection, statement: str, parameters: dict[str, Any]) -> Any:
    row = connection.execute(statement, parameters).fetchone()
    assert row is not None
    return row[0]
