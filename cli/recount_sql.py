"""A recount of one site from its raw events, in plain SQL: one statement per measure.

It shares no code with aggregation or reports, on purpose, because it would share their errors. Only aggregated events
are counted, because answers hold no others.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import psycopg

TOUCH = (
    "path",
    "referrer",
    "source",
    "device",
    "browser",
    "os",
    "country",
    "utm_source",
    "utm_medium",
    "utm_campaign",
)
"""The fields of a first or last touch that are compared."""

# The aggregated events of the site, and each event's keys by dimension. Of events at one instant the one with the
# smaller event_id is the earlier: the stored UUID, which is a hash where the sender's id is no UUID.
_EVENTS = """
SELECT e.occurred_at AS at, e.event_id, e.visitor_id, coalesce(e.session_id, '') AS stream, e.type = 1 AS pageview,
       e.path,
       CASE e.type WHEN 1 THEN 'pageview' WHEN 3 THEN 'identify' ELSE e.name END AS event,
       CASE WHEN e.type = 1 THEN e.path END AS page, e.referrer, e.utm_source, e.utm_medium, e.utm_campaign,
       e.device, e.browser, e.os, e.country, e.source, e.type = 3 AS identify, e.user_id,
       CASE WHEN e.type = 3 THEN e.properties END AS traits
FROM events e
WHERE e.site_id = %(site_id)s
  AND NOT EXISTS (SELECT FROM pending_batches p WHERE p.site_id = e.site_id AND p.batch_id = e.batch_id
                    AND e.ord BETWEEN p.first_ord AND p.last_ord)
  AND NOT EXISTS (SELECT FROM failed_events f WHERE f.site_id = e.site_id AND f.batch_id = e.batch_id AND f.ord = e.ord)
"""

# The sessions of the site: the events of a visitor's stream, cut where the gap is longer than the timeout.
_SESSIONS = """
WITH gaps AS (
    SELECT *, at - lag(at) OVER stream > %(timeout)s AS after_gap
    FROM recount_events WINDOW stream AS (PARTITION BY visitor_id, stream ORDER BY at, event_id)
), numbered AS (
    SELECT *, count(*) FILTER (WHERE after_gap) OVER (PARTITION BY visitor_id, stream ORDER BY at, event_id) AS number
    FROM gaps
), runs AS (
    SELECT visitor_id, stream, number, min(at) AS started_at, max(at) AS ended_at, count(*) AS events,
           count(*) FILTER (WHERE pageview) AS pageviews,
           (array_agg(path ORDER BY at, event_id) FILTER (WHERE path IS NOT NULL))[1] AS entry_page,
           (array_agg(path ORDER BY at DESC, event_id DESC) FILTER (WHERE path IS NOT NULL))[1] AS exit_page
    FROM numbered GROUP BY visitor_id, stream, number
), firsts AS (
    SELECT DISTINCT ON (visitor_id, stream, number) *
    FROM numbered ORDER BY visitor_id, stream, number, at, event_id
)
SELECT r.*, f.event, f.page, f.referrer, f.utm_source, f.utm_medium, f.utm_campaign, f.device, f.browser, f.os,
       f.country,
       row_number() OVER (PARTITION BY r.visitor_id ORDER BY f.at, f.event_id, r.stream) = 1 AS new_visitor
FROM runs r JOIN firsts f USING (visitor_id, stream, number)
"""

_TABLES = {"recount_events": _EVENTS, "recount_sessions": _SESSIONS}

_TOUCH = "ARRAY[" + ", ".join(f"coalesce({{0}}.{name}, '')" for name in TOUCH) + "]"

# The visitors of the site, from the earliest, the latest and the latest IDENTIFY event of each.
_VISITORS = f"""
SELECT * FROM (
WITH firsts AS (
    SELECT DISTINCT ON (visitor_id) * FROM recount_events ORDER BY visitor_id, at, event_id
), lasts AS (
    SELECT DISTINCT ON (visitor_id) * FROM recount_events ORDER BY visitor_id, at DESC, event_id DESC
), identifies AS (
    SELECT DISTINCT ON (visitor_id) visitor_id, user_id, traits
    FROM recount_events WHERE identify ORDER BY visitor_id, at DESC, event_id DESC
)
SELECT f.visitor_id, f.at, l.at, {_TOUCH.format("f")}, {_TOUCH.format("l")}, coalesce(i.user_id, ''),
       coalesce(i.traits, '{{}}')
FROM firsts f JOIN lasts l USING (visitor_id) LEFT JOIN identifies i USING (visitor_id)
) AS recounted
"""

EVENT_DIMENSIONS = (
    "event",
    "page",
    "referrer",
    "utm_source",
    "utm_medium",
    "utm_campaign",
    "device",
    "browser",
    "os",
    "country",
)
SESSION_DIMENSIONS = ("entry_page", "exit_page")

_OF_EVENTS = "count(*), count(*) FILTER (WHERE pageview), count(DISTINCT visitor_id)"
_OF_SESSIONS = """
count(*), count(*) FILTER (WHERE pageviews <= 1), (extract(epoch FROM sum(ended_at - started_at)) * 1000000)::bigint,
count(*) FILTER (WHERE new_visitor)
"""


class Visitor(NamedTuple):
    """The fields of a visitor that are compared. Touches are in the order of TOUCH."""

    visitor_id: str
    first_seen: datetime
    last_seen: datetime
    first_touch: list[str]
    last_touch: list[str]
    user_id: str
    traits: dict[str, Any]


class Measures(NamedTuple):
    """The measures that are compared. `duration_us` is the sum of the sessions' durations, in µs."""

    events: int = 0
    pageviews: int = 0
    visitors: int = 0
    sessions: int = 0
    bounces: int = 0
    duration_us: int = 0
    new_visitors: int = 0


class Recount:
    """Counts one site's aggregated raw events in the caller's transaction, in temporary tables that end with it.

    Where nothing can be written, as on a standby, every statement reads the raw events anew, which takes longer.
    """

    def __init__(self, connection: psycopg.Connection[Any], slug: str) -> None:
        """Raises LookupError if there is no site with the slug."""
        self._connection = connection
        site = connection.execute(
            "SELECT site_id, session_timeout_us * interval '1 microsecond', raw_from FROM sites WHERE slug = %s",
            (slug,),
        ).fetchone()
        if site is None:
            raise LookupError(slug)
        self.whole_from: datetime | None = site[2] and site[2] + site[1]
        """From when on everything except new visitors can be recounted; None = all raw events are there. It is one
        session timeout after the floor, because a session that seems to begin earlier may have lost its first events.
        """
        self._site = {"site_id": site[0], "timeout": site[1]}
        self._tables = ""
        if connection.execute("SELECT current_setting('transaction_read_only')").fetchone() == ("on",):
            parts = (f"{name} AS MATERIALIZED ({statement})" for name, statement in _TABLES.items())
            self._tables = f"WITH {', '.join(parts)}"
            return
        for name, statement in _TABLES.items():
            connection.execute(f"CREATE TEMPORARY TABLE {name} ON COMMIT DROP AS {statement}", self._site)
        connection.execute("CREATE INDEX ON recount_events (at)")
        connection.execute("CREATE INDEX ON recount_sessions (started_at)")
        connection.execute("ANALYZE recount_events")
        connection.execute("ANALYZE recount_sessions")

    def _rows(self, statement: str, **parameters: object) -> list[tuple[Any, ...]]:
        return self._connection.execute(f"{self._tables} {statement}", {**self._site, **parameters}).fetchall()

    def span(self) -> tuple[datetime, datetime] | None:
        """The times of the first and the last event; None if there is none."""
        [(first, last)] = self._rows("SELECT min(at), max(at) FROM recount_events")
        return None if first is None else (first, last)

    def visitors(self) -> list[Visitor]:
        """Every visitor with an event, in no particular order."""
        return [Visitor(*row) for row in self._rows(_VISITORS)]

    def totals(self, start: datetime, end: datetime) -> Measures:
        """The measures of [start, end)."""
        return self._keyed("''", start, end).get("", Measures())

    def per_bucket(self, starts: Sequence[datetime], end: datetime) -> list[Measures]:
        """The measures of each bucket. A bucket reaches from one start to the next, the last to `end`."""
        spans = list(zip(starts, [*starts[1:], end], strict=True))
        starts, ends = [span[0] for span in spans], [span[1] for span in spans]
        buckets = "unnest(%(starts)s::timestamptz[], %(ends)s::timestamptz[]) WITH ORDINALITY AS b (start, stop, n)"
        events = self._rows(
            f"SELECT n, {_OF_EVENTS} FROM {buckets} JOIN recount_events ON at >= start AND at < stop GROUP BY n",
            starts=starts,
            ends=ends,
        )
        found = {n: Measures(*counts) for n, *counts in events}
        sessions = self._rows(
            f"SELECT n, {_OF_SESSIONS} FROM {buckets} "
            "JOIN recount_sessions ON started_at >= start AND started_at < stop GROUP BY n",
            starts=starts,
            ends=ends,
        )
        for n, *counts in sessions:
            found[n] = Measures(*found[n][:3], *counts)
        return [found.get(n, Measures()) for n in range(1, len(spans) + 1)]

    def per_key(self, dimension: str, start: datetime, end: datetime) -> dict[str, Measures]:
        """The measures of every key of the dimension (of EVENT_DIMENSIONS or SESSION_DIMENSIONS) in [start, end)."""
        if dimension in EVENT_DIMENSIONS:
            return self._keyed(dimension, start, end)
        rows = self._rows(
            f"SELECT {dimension}, sum(events)::bigint, sum(pageviews)::bigint, count(DISTINCT visitor_id), "
            f"{_OF_SESSIONS} FROM recount_sessions "
            f"WHERE started_at >= %(start)s AND started_at < %(end)s AND {dimension} IS NOT NULL GROUP BY 1",
            start=start,
            end=end,
        )
        return {key: Measures(*counts) for key, *counts in rows}

    def _keyed(self, key: str, start: datetime, end: datetime) -> dict[str, Measures]:
        events = self._rows(
            f"SELECT {key}, {_OF_EVENTS} FROM recount_events "
            f"WHERE at >= %(start)s AND at < %(end)s AND {key} IS NOT NULL GROUP BY 1",
            start=start,
            end=end,
        )
        found = {name: Measures(*counts) for name, *counts in events}
        sessions = self._rows(
            f"SELECT {key}, {_OF_SESSIONS} FROM recount_sessions "
            f"WHERE started_at >= %(start)s AND started_at < %(end)s AND {key} IS NOT NULL GROUP BY 1",
            start=start,
            end=end,
        )
        for name, *counts in sessions:
            found[name] = Measures(*found[name][:3], *counts)
        return found
