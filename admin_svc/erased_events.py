"""The raw events of who is erased: found a bounded number at a time, and deleted."""

from datetime import datetime
from typing import Any, NamedTuple

import psycopg

# Looks at events by time and deletes those of one visitor. An hour of which a counted one goes is remembered in the
# same statement: what is left of it tells less than its rollups.
_SCAN = """
WITH looked AS MATERIALIZED (
    SELECT e.ctid AS place, e.site_id, e.occurred_at, e.batch_id, e.ord, e.visitor_id FROM events e
    WHERE e.site_id = %(site_id)s AND e.occurred_at <= %(until)s
      AND (e.occurred_at, e.batch_id, e.ord) > (%(at)s, %(batch_id)s, %(ord)s)
    ORDER BY e.occurred_at, e.batch_id, e.ord LIMIT %(look)s
), found AS MATERIALIZED (
    SELECT * FROM looked WHERE visitor_id = %(visitor_id)s ORDER BY occurred_at, batch_id, ord LIMIT %(rows)s
), gone AS (
    DELETE FROM events WHERE site_id = %(site_id)s AND ctid = ANY(ARRAY(SELECT place FROM found))
), told AS (
    INSERT INTO erased_hours (site_id, hour)
    SELECT DISTINCT e.site_id, date_bin('1 hour', e.occurred_at, 'epoch') FROM found e
    WHERE NOT EXISTS (SELECT FROM pending_batches p WHERE p.site_id = %(site_id)s AND p.batch_id = e.batch_id
                        AND e.ord BETWEEN p.first_ord AND p.last_ord)
      AND NOT EXISTS (SELECT FROM failed_events f WHERE f.site_id = %(site_id)s AND f.batch_id = e.batch_id
                        AND f.ord = e.ord)
    ON CONFLICT (site_id, hour) DO NOTHING
), page AS (
    SELECT (SELECT count(*) FROM looked) AS looked, (SELECT count(*) FROM found) AS deleted
)
SELECT page.*, last.* FROM page LEFT JOIN LATERAL (
    SELECT occurred_at, batch_id, ord FROM looked WHERE page.deleted < %(rows)s UNION ALL
    SELECT occurred_at, batch_id, ord FROM found WHERE page.deleted = %(rows)s
    ORDER BY 1 DESC, 2 DESC, 3 DESC LIMIT 1
) AS last ON true
"""


def _aside(table: str, first: str, last: str) -> str:
    """Looks at what stands aside in `table`, and deletes the events of the subject that are alone in their row, with
    it: of a visitor by its id, of a user those that name the user and those of its visitors. OFFSET 0 keeps it to a
    probe an event."""
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
    ), page AS (
        SELECT (SELECT count(*) FROM looked) AS looked, (SELECT count(*) FROM found) AS deleted
    )
    SELECT page.*, last.* FROM page LEFT JOIN LATERAL (
        SELECT batch_id, ord FROM looked WHERE page.deleted < %(rows)s UNION ALL
        SELECT batch_id, ord FROM found WHERE page.deleted = %(rows)s
        ORDER BY 1 DESC, 2 DESC LIMIT 1
    ) AS last ON true
    """


_ASIDE = {
    "failed_events": _aside("failed_events", "ord", "ord"),
    "pending_batches": _aside("pending_batches", "first_ord", "last_ord"),
}

Connection = psycopg.Connection[Any]


class Budget:
    """What a page may still do; each call here takes from it."""

    def __init__(self, rows: int, look: int) -> None:
        self.rows = rows
        """Rows to delete."""
        self.look = look
        """Events to look at."""

    @property
    def spent(self) -> bool:
        """Whether the page has to end."""
        return self.rows <= 0 or self.look <= 0


class Place(NamedTuple):
    """An event in the order of time; the scan goes on behind it."""

    at: datetime
    batch_id: int = -1
    ord: int = -1


def erase_span(
    connection: Connection, site_id: int, visitor_id: str, after: Place, until: datetime, budget: Budget
) -> tuple[int, Place | None]:
    """Deletes events of the visitor from behind `after` to `until`, that instant included, as far as the budget goes.

    Returns how many, and where to go on; None = it came to the end.
    """
    row = connection.execute(
        _SCAN,
        {
            "site_id": site_id,
            "visitor_id": visitor_id,
            **after._asdict(),
            "until": until,
            "rows": budget.rows,
            "look": budget.look,
        },
    ).fetchone()
    assert row is not None
    looked, deleted, *last = row
    ended = looked < budget.look and deleted < budget.rows
    budget.rows -= deleted
    budget.look -= looked
    return deleted, None if ended else Place(*last)


def erase_aside(
    connection: Connection,
    table: str,
    site_id: int,
    subject: dict[str, str | None],
    newest: int,
    after: tuple[int, int],
    budget: Budget,
) -> tuple[int, tuple[int, int] | None]:
    """Deletes events of the subject that stand alone in `table` (failed_events or pending_batches), of the batches up
    to `newest` and behind (batch, position) `after`, as far as the budget goes; their rows there go too.

    `subject` has visitor_id and user_id, one of them None. Returns as erase_span.
    """
    parameters = {"site_id": site_id, "newest": newest, "batch_id": after[0], "ord": after[1], **subject}
    row = connection.execute(_ASIDE[table], {**parameters, "rows": budget.rows, "look": budget.look}).fetchone()
    assert row is not None
    looked, deleted, *last = row
    ended = looked < budget.look and deleted < budget.rows
    budget.rows -= deleted
    budget.look -= looked
    return deleted, None if ended else (last[0], last[1])
