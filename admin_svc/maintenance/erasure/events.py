"""The raw events of an erased visitor: a bounded number of events is searched, and those of the visitor are deleted."""

from datetime import datetime
from typing import Any, NamedTuple

import psycopg

from admin_svc.chunk import Position
from common.aggregated import is_aggregated

# Looks at events by time and deletes those of one visitor. The same statement records the hours from which aggregated
# ones are deleted as incomplete.
_SCAN = f"""
WITH looked AS MATERIALIZED (
    SELECT e.ctid AS place, e.site_id, e.occurred_at, e.batch_id, e.ord, e.visitor_id FROM events e
    WHERE e.site_id = %(site_id)s AND e.occurred_at <= %(until)s
      AND (e.occurred_at, e.batch_id, e.ord) > (%(at)s, %(batch_id)s, %(ord)s)
    ORDER BY e.occurred_at, e.batch_id, e.ord LIMIT %(look)s
), found AS MATERIALIZED (
    SELECT * FROM looked WHERE visitor_id = %(visitor_id)s ORDER BY occurred_at, batch_id, ord LIMIT %(rows)s
), gone AS (
    DELETE FROM events WHERE site_id = %(site_id)s AND ctid = ANY(ARRAY(SELECT place FROM found))
), remembered AS (
    INSERT INTO erased_hours (site_id, hour)
    SELECT DISTINCT e.site_id, date_bin('1 hour', e.occurred_at, 'epoch') FROM found e
    WHERE {is_aggregated("e")}
    ON CONFLICT (site_id, hour) DO NOTHING
), chunk AS (
    SELECT (SELECT count(*) FROM looked) AS looked, (SELECT count(*) FROM found) AS deleted
)
SELECT chunk.*, last.* FROM chunk LEFT JOIN LATERAL (
    SELECT occurred_at, batch_id, ord FROM looked WHERE chunk.deleted < %(rows)s UNION ALL
    SELECT occurred_at, batch_id, ord FROM found WHERE chunk.deleted = %(rows)s
    ORDER BY 1 DESC, 2 DESC, 3 DESC LIMIT 1
) AS last ON true
"""


def _scan_unaggregated(table: str, first: str, last: str) -> str:
    """A statement that looks at rows of `table` and deletes those of a single event of the subject, with the event.

    The events of a visitor are found by visitor id, those of a user by user id and by the visitors of the user.
    OFFSET 0 makes it one index probe per row.
    """
    return f"""
    WITH looked AS MATERIALIZED (
        SELECT ctid AS place, batch_id, {first} AS ord, {first} = {last} AS alone FROM {table}
        WHERE site_id = %(site_id)s AND batch_id <= %(newest)s AND (batch_id, {first}) > (%(batch_id)s, %(ord)s)
        ORDER BY batch_id, {first} LIMIT %(look)s
    ), found AS MATERIALIZED (
        SELECT l.place, l.batch_id, l.ord, e.place AS event FROM looked l CROSS JOIN LATERAL (
            SELECT ctid AS place, visitor_id, user_id FROM events
            WHERE site_id = %(site_id)s AND batch_id = l.batch_id AND ord = l.ord OFFSET 0
        ) AS e
        WHERE l.alone AND (e.visitor_id = %(visitor_id)s OR e.user_id = %(user_id)s
           OR EXISTS (SELECT FROM visitors v WHERE v.site_id = %(site_id)s AND v.visitor_id = e.visitor_id
                        AND v.user_id = %(user_id)s))
        ORDER BY l.batch_id, l.ord LIMIT %(rows)s
    ), gone AS (
        DELETE FROM events WHERE site_id = %(site_id)s AND ctid = ANY(ARRAY(SELECT event FROM found))
    ), taken AS (
        DELETE FROM {table} WHERE site_id = %(site_id)s AND ctid = ANY(ARRAY(SELECT place FROM found))
    ), chunk AS (
        SELECT (SELECT count(*) FROM looked) AS looked, (SELECT count(*) FROM found) AS deleted
    )
    SELECT chunk.*, last.* FROM chunk LEFT JOIN LATERAL (
        SELECT batch_id, ord FROM looked WHERE chunk.deleted < %(rows)s UNION ALL
        SELECT batch_id, ord FROM found WHERE chunk.deleted = %(rows)s
        ORDER BY 1 DESC, 2 DESC LIMIT 1
    ) AS last ON true
    """


_UNAGGREGATED = {
    "failed_events": _scan_unaggregated("failed_events", "ord", "ord"),
    "pending_batches": _scan_unaggregated("pending_batches", "first_ord", "last_ord"),
}
UNAGGREGATED_TABLES = tuple(_UNAGGREGATED)
"""The tables of events that are not aggregated, in the order in which an erasure searches them."""

Connection = psycopg.Connection[Any]


class Subject(NamedTuple):
    """Who is erased: a visitor, or all visitors of a user."""

    field: str
    """visitor_id or user_id."""
    value: str

    @property
    def parameters(self) -> dict[str, str | None]:
        """Both fields as parameters; the one that is not given is None."""
        return {"visitor_id": None, "user_id": None, self.field: self.value}


class Budget:
    """What a chunk may still do. The functions of this module take from it."""

    def __init__(self, rows: int, look: int) -> None:
        self.rows = rows
        """Rows to delete."""
        self.look = look
        """Events to look at."""

    @property
    def spent(self) -> bool:
        """Whether the chunk has to end."""
        return self.rows <= 0 or self.look <= 0

    def take(self, looked: int, deleted: int) -> bool:
        """Takes what a scan did. Returns whether the scan came to its end before it reached a limit."""
        ended = looked < self.look and deleted < self.rows
        self.rows -= deleted
        self.look -= looked
        return ended


class Place(NamedTuple):
    """An event's place in the order of time. A scan goes on after it."""

    at: datetime
    batch_id: int = -1
    ord: int = -1


def erase_span(
    connection: Connection, site_id: int, visitor_id: str, after: Place, until: datetime, budget: Budget
) -> tuple[int, Place | None]:
    """Deletes events of the visitor after `after` and up to `until`, that instant included, as far as the budget goes.

    Returns how many, and where to go on; None = the end was reached.
    """
    parameters = {"site_id": site_id, "visitor_id": visitor_id, **after._asdict(), "until": until}
    row = connection.execute(_SCAN, {**parameters, "rows": budget.rows, "look": budget.look}).fetchone()
    assert row is not None
    looked, deleted, *last = row
    return deleted, None if budget.take(looked, deleted) else Place(*last)


def erase_unaggregated(
    connection: Connection,
    table: str,
    site_id: int,
    subject: Subject,
    newest: int,
    after: Position,
    budget: Budget,
) -> tuple[int, Position | None]:
    """Deletes events of the subject that have a row of their own in `table` (of UNAGGREGATED_TABLES), with that row.

    Looks at batches up to `newest` and after the (batch, position) `after`, as far as the budget goes. Returns how
    many, and where to go on; None = the end was reached.
    """
    batch_id, ord_ = after
    parameters = {"site_id": site_id, "newest": newest, "batch_id": batch_id, "ord": ord_, **subject.parameters}
    row = connection.execute(_UNAGGREGATED[table], {**parameters, "rows": budget.rows, "look": budget.look}).fetchone()
    assert row is not None
    looked, deleted, *last = row
    return deleted, None if budget.take(looked, deleted) else (last[0], last[1])
