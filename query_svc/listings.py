"""The lists of raw events, sessions and visitors: newest first, one page after a cursor."""

from typing import Any

import psycopg
from footfall.query.v1 import query_pb2
from psycopg.rows import namedtuple_row

from common.event_columns import EVENT_COLUMNS
from common.page_tokens import PageTokens
from common.paging import cut_page, page_size
from common.sites import Site
from query_svc import messages
from query_svc.requests import Range, optional_range

_EVENT_ID = "coalesce(e.event_id_text, e.event_id::text) AS event_id"
_EVENT_COLUMNS = ", ".join(
    _EVENT_ID if column == "event_id" else f"e.{column}"
    for column in EVENT_COLUMNS
    if column not in ("site_id", "event_id_text")
)

# A page of events after the cursor, which is the last row of the page before. Batch numbers do not tell who came first,
# because every committing thread takes them from a block of its own. But an event's batch and position never change, so
# the order stays, and a page holds no row of the pages before.
_EVENTS = f"""
SELECT {_EVENT_COLUMNS}
FROM events e
WHERE e.site_id = %(site_id)s AND e.occurred_at >= %(start)s AND e.occurred_at < %(end)s
  AND (e.occurred_at, e.batch_id, e.ord) < (%(at)s, %(batch_id)s, %(ord)s)
ORDER BY e.occurred_at DESC, e.batch_id DESC, e.ord DESC LIMIT %(rows)s
"""

# A page of sessions after the cursor, with the ids of their visitors and users.
_SESSIONS = """
SELECT s.started_at, s.visitor_no, s.session_id, s.ended_at, s.events, s.pageviews, s.new_visitor, s.entry_page,
       s.exit_page, s.referrer, s.device, s.browser, s.os, s.country, s.utm_source, s.utm_medium, s.utm_campaign,
       v.visitor_id, v.user_id
FROM sessions s JOIN visitors v ON v.site_id = %(site_id)s AND v.visitor_no = s.visitor_no
WHERE s.site_id = %(site_id)s AND s.started_at >= %(start)s AND s.started_at < %(end)s
  AND (s.started_at, s.visitor_no, s.session_id) < (%(at)s, %(visitor_no)s, %(session_id)s)
ORDER BY s.started_at DESC, s.visitor_no DESC, s.session_id DESC LIMIT %(rows)s
"""

# A page of visitors after the cursor.
_VISITORS = """
SELECT v.first_seen_at, v.visitor_no, v.visitor_id, v.user_id, v.traits, v.last_seen_at, v.first_touch, v.last_touch
FROM visitors v
WHERE v.site_id = %(site_id)s AND v.first_seen_at >= %(start)s AND v.first_seen_at < %(end)s
  AND (v.first_seen_at, v.visitor_no) < (%(at)s, %(visitor_no)s)
ORDER BY v.first_seen_at DESC, v.visitor_no DESC LIMIT %(rows)s
"""

Connection = psycopg.Connection[Any]


def list_events(
    connection: Connection, site: Site, request: query_pb2.ListEventsRequest, tokens: PageTokens
) -> query_pb2.ListEventsResponse:
    """ListEvents. Raises CallError for a request that is not valid."""
    asked, size = optional_range(request), page_size(request.page_size)
    bound = ("ListEvents", site.slug, *_bounds(asked))
    cursor = tokens.open(bound, request.page_token)
    at, batch_id, ord_ = cursor or ("infinity", 0, 0)
    parameters = {
        **_parameters(site, asked, size),
        "at": at,
        "batch_id": batch_id,
        "ord": ord_,
    }
    page, token = cut_page(
        _rows(connection, _EVENTS, parameters),
        size,
        messages.event,
        tokens,
        bound,
        lambda row: [row.occurred_at, row.batch_id, row.ord],
    )
    return query_pb2.ListEventsResponse(events=page, has_more=bool(token), next_page_token=token)


def list_sessions(
    connection: Connection, site: Site, request: query_pb2.ListSessionsRequest, tokens: PageTokens
) -> query_pb2.ListSessionsResponse:
    """ListSessions. Raises CallError for a request that is not valid."""
    asked, size = optional_range(request), page_size(request.page_size)
    bound = ("ListSessions", site.slug, *_bounds(asked))
    cursor = tokens.open(bound, request.page_token)
    at, visitor_no, session_id = cursor or ("infinity", 0, "")
    parameters = {
        **_parameters(site, asked, size),
        "at": at,
        "visitor_no": visitor_no,
        "session_id": session_id,
    }
    page, token = cut_page(
        _rows(connection, _SESSIONS, parameters),
        size,
        messages.session,
        tokens,
        bound,
        lambda row: [row.started_at, row.visitor_no, row.session_id],
    )
    return query_pb2.ListSessionsResponse(sessions=page, has_more=bool(token), next_page_token=token)


def list_visitors(
    connection: Connection, site: Site, request: query_pb2.ListVisitorsRequest, tokens: PageTokens
) -> query_pb2.ListVisitorsResponse:
    """ListVisitors. Raises CallError for a request that is not valid."""
    asked, size = optional_range(request), page_size(request.page_size)
    bound = ("ListVisitors", site.slug, *_bounds(asked))
    at, visitor_no = tokens.open(bound, request.page_token) or ("infinity", 0)
    parameters = {**_parameters(site, asked, size), "at": at, "visitor_no": visitor_no}
    page, token = cut_page(
        _rows(connection, _VISITORS, parameters),
        size,
        messages.visitor,
        tokens,
        bound,
        lambda row: [row.first_seen_at, row.visitor_no],
    )
    return query_pb2.ListVisitorsResponse(visitors=page, has_more=bool(token), next_page_token=token)


def _rows(connection: Connection, statement: str, parameters: dict[str, Any]) -> list[Any]:
    with connection.cursor(row_factory=namedtuple_row) as cursor:
        return cursor.execute(statement, parameters).fetchall()


def _parameters(site: Site, asked: Range | None, size: int) -> dict[str, Any]:
    start, end = asked or ("-infinity", "infinity")
    # One row more than the page tells whether another page follows.
    return {"site_id": site.site_id, "start": start, "end": end, "rows": size + 1}


def _bounds(asked: Range | None) -> tuple[str, ...]:
    return tuple(bound.isoformat() for bound in asked or ())
