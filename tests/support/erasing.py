"""Erasures of visitors, and what they must leave."""

from dataclasses import replace
from typing import Any
from uuid import uuid4

import psycopg
from footfall.admin.v1 import admin_pb2
from footfall.query.v1 import query_pb2

from tests.oracle.raw_events import HOUR, SECOND, RawEvent
from tests.oracle.recount import Recount
from tests.support.footfall_site import FootfallSite
from tests.support.site_rows import tables_with
from tests.support.traffic import SESSION_TIMEOUT, START, WHOLE, made_up

TEN = START + 10 * HOUR
ALWAYS = 1_577_836_800 * SECOND, 2_208_988_800 * SECOND
"""From 2020 to 2040, in whole days."""

# What of the recount an erasure must leave as it is.
_LISTS = ("sessions", "order of sessions", "events", "order of events", "visitors", "order of visitors")


def named(seed: int, *, visitors: int, events: int) -> list[RawEvent]:
    """Made-up events whose visitors and users have names that nothing else holds, not even as a part."""
    mark = uuid4().hex[:8]
    return [
        replace(
            event,
            visitor_id=f"<{mark} {event.visitor_id}>",
            user_id=event.user_id and f"<{mark} {event.user_id}>",
        )
        for event in made_up(seed, visitors=visitors, events=events)
    ]


def erase(site: FootfallSite, limit: int = 0, token: str = "", **subject: str) -> admin_pb2.EraseVisitorResponse:
    request = admin_pb2.EraseVisitorRequest(site=site.slug, limit=limit, page_token=token, **subject)
    chunk: admin_pb2.EraseVisitorResponse = site.operator.EraseVisitor(request, metadata=site.as_admin)
    assert chunk.has_more == (chunk.next_page_token != "")
    return chunk


def erase_all(site: FootfallSite, limit: int = 0, **subject: str) -> list[admin_pb2.EraseVisitorResponse]:
    """Every chunk of an erasure."""
    chunks = [erase(site, limit, **subject)]
    while chunks[-1].has_more:
        chunks.append(erase(site, limit, chunks[-1].next_page_token, **subject))
        assert len(chunks) < 2_000, "it does not come to an end"
    return chunks


def removed(chunks: list[admin_pb2.EraseVisitorResponse]) -> tuple[int, int, int]:
    """Events, sessions and visitors."""
    return (
        sum(chunk.events for chunk in chunks),
        sum(chunk.sessions for chunk in chunks),
        sum(chunk.visitors for chunk in chunks),
    )


def assert_counts(site: FootfallSite, events: list[RawEvent]) -> None:
    """Every count over whole hours and days is that of all the events, erased or not."""
    recount = Recount(events, SESSION_TIMEOUT)
    for query, expected, answered in site.compare(recount, *WHOLE):
        if query not in _LISTS:
            assert answered == expected, query


def assert_nothing_names(
    connection: psycopg.Connection[Any], site: FootfallSite, gone: set[str], kept: list[RawEvent]
) -> None:
    """No text of any table, no list; what is kept of others is all there."""
    for name in gone:
        assert tables_with(connection, name) == []
    left = Recount(kept, SESSION_TIMEOUT)
    for query, expected, answered in site.compare(left, *WHOLE):
        if query in _LISTS:
            assert answered == expected, query
    request = query_pb2.ListVisitorsRequest(site=site.slug)
    listed = site.query.ListVisitors(request, metadata=site.as_admin).visitors
    assert {visitor.visitor_id for visitor in listed} == {event.visitor_id for event in kept}


def overview(site: FootfallSite, start: int, end: int) -> query_pb2.GetOverviewResponse:
    request = query_pb2.GetOverviewRequest(site=site.slug)
    request.range.start_time.FromMicroseconds(start)
    request.range.end_time.FromMicroseconds(end)
    answer: query_pb2.GetOverviewResponse = site.query.GetOverview(request, metadata=site.as_admin)
    return answer


def told(metadata: query_pb2.ReportMetadata) -> tuple[int, int, bool]:
    """The range that was answered, and whether it is exactly the one asked for."""
    answered = metadata.effective_range
    return answered.start_time.ToMicroseconds(), answered.end_time.ToMicroseconds(), metadata.exact
