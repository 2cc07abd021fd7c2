"""Adds visitors, sessions and facts to the DuckDB file that holds a dataset's events.

It gives the same results as aggregation by other means: windows over all events at once instead of merging chunk by
chunk. A test compares the result with that of the product. The dataset has no IDENTIFY events.
"""

from pathlib import Path

from bench.dataset import open_dataset
from common.dimensions import EVENT_DIMENSIONS, KEYED_EVENT_DIMENSIONS, SESSION_DIMENSIONS, Dimension

# `n` numbers the events by (occurred_at, event_id), so the smallest n is the first event. Visitors get their numbers in
# the order in which they come, as in aggregation.
_VISITORS = """
CREATE TABLE visitors AS
WITH found AS (SELECT visitor_id, min(n) AS first_n, max(n) AS last_n FROM events GROUP BY visitor_id)
SELECT (row_number() OVER (ORDER BY first_n) - 1)::INTEGER AS visitor_no, visitor_id, first_n, last_n FROM found
"""

# A stream is the events of one visitor under one session id. After a gap longer than the timeout a session begins.
_RUNS = """
CREATE TABLE runs AS
WITH stream AS (
    SELECT e.n, e.occurred_at, e.type, e.path IS NOT NULL AS has_path, v.visitor_no,
           coalesce(e.session_id, '') AS session_id
    FROM events e JOIN visitors v USING (visitor_id)
), marked AS (
    SELECT *, coalesce(occurred_at - lag(occurred_at) OVER w > to_microseconds($timeout_us), TRUE)::INTEGER AS begins
    FROM stream WINDOW w AS (PARTITION BY visitor_no, session_id ORDER BY n)
), numbered AS (
    SELECT *, sum(begins) OVER (PARTITION BY visitor_no, session_id ORDER BY n) AS run FROM marked
)
SELECT visitor_no, session_id, min(n) AS first_n, max(n) AS last_n, count(*)::INTEGER AS events,
       count(*) FILTER (type = 1)::INTEGER AS pageviews,
       min(n) FILTER (has_path) AS entry_n, max(n) FILTER (has_path) AS exit_n
FROM numbered GROUP BY visitor_no, session_id, run
"""

_SESSIONS = """
CREATE TABLE sessions AS
SELECT e.occurred_at AS started_at, last.occurred_at AS ended_at, entry.occurred_at AS entry_at,
       exit.occurred_at AS exit_at, r.visitor_no, r.events, r.pageviews, e.event_id AS first_event_id,
       entry.event_id AS entry_event_id, exit.event_id AS exit_event_id, r.first_n = v.first_n AS new_visitor,
       r.session_id, {keys}, entry.path AS entry_page, exit.path AS exit_page
FROM runs r
JOIN visitors v USING (visitor_no)
JOIN events e ON e.n = r.first_n
JOIN events last ON last.n = r.last_n
LEFT JOIN events entry ON entry.n = r.entry_n
LEFT JOIN events exit ON exit.n = r.exit_n
ORDER BY r.first_n
"""

# One row per event: its hour (counted from 1970), its visitor, and its key of each dimension as a place in the type of
# that dimension. Then the same per session.
_EVENT_FACTS = """
CREATE TABLE event_facts AS
SELECT epoch_us(e.occurred_at) // 3600000000 AS hour, v.visitor_no, e.type = 1 AS pageview, {codes}
FROM events e JOIN visitors v USING (visitor_id)
"""
_SESSION_FACTS = """
CREATE TABLE session_facts AS
SELECT epoch_us(started_at) // 3600000000 AS hour, visitor_no, events, pageviews, (pageviews <= 1) AS bounce,
       date_diff('microseconds', started_at, ended_at) AS duration_us, new_visitor, {codes}
FROM sessions
"""
_NO_KEY = -1

KEY_TYPES = {
    **{dimension.number: f"keys_{dimension.number}" for dimension in EVENT_DIMENSIONS},
    **{dimension.number: "keys_2" for dimension in SESSION_DIMENSIONS},
}
"""The DuckDB type with the keys of a dimension, by its number. Entry and exit pages are paths, like pages."""


def derive(file: Path, *, session_timeout_us: int) -> None:
    """Adds visitors, sessions, event_facts and session_facts to a generated file."""
    with open_dataset(file, read_only=False) as connection:
        connection.execute(_VISITORS)
        connection.execute(_RUNS, {"timeout_us": session_timeout_us})
        keys = ", ".join(f"{dimension.sql} AS {dimension.column}" for dimension in KEYED_EVENT_DIMENSIONS)
        connection.execute(_SESSIONS.format(keys=keys))
        for dimension in EVENT_DIMENSIONS:
            # The path of any event may be an entry page, not only that of a pageview.
            sql = "e.path" if KEY_TYPES[dimension.number] == "keys_2" else dimension.sql
            connection.execute(
                f"CREATE TYPE {KEY_TYPES[dimension.number]} AS ENUM "
                f"(SELECT DISTINCT {sql} AS key FROM events e WHERE key IS NOT NULL ORDER BY key)"
            )
        event_codes = [_code(dimension.number, dimension.sql) for dimension in EVENT_DIMENSIONS]
        connection.execute(_EVENT_FACTS.format(codes=", ".join(event_codes)))
        dimensions: tuple[Dimension, ...] = (*EVENT_DIMENSIONS, *SESSION_DIMENSIONS)
        session_codes = [_code(dimension.number, dimension.column or "''") for dimension in dimensions]
        connection.execute(_SESSION_FACTS.format(codes=", ".join(session_codes)))
        connection.execute("DROP TABLE runs")


def _code(number: int, sql: str) -> str:
    return f"coalesce(enum_code(({sql})::{KEY_TYPES[number]})::INTEGER, {_NO_KEY}) AS key_{number}"
