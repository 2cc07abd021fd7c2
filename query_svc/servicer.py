"""QueryService: opens a snapshot and runs the report."""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import grpc
import psycopg
from footfall.query.v1 import query_pb2, query_pb2_grpc

from common.calls.call import caller
from common.calls.shares import Bounds, Caller, Shares
from common.calls.stopping import Stop
from common.clock import Clock
from common.db import Database
from common.errors import Reason, invalid
from common.page_tokens import PageTokens
from common.sites import Site, find_site
from query_svc import listings, reports

SERVICE = "footfall.query.v1.QueryService"

HOW_TO_AUTHENTICATE = "a read or admin key as authorization: Bearer <key>"

Context = grpc.aio.ServicerContext[Any, Any]
Answer = TypeVar("Answer")


class SiteRequest(Protocol):
    """Every request of this service names its site."""

    @property
    def site(self) -> str: ...


class QueryServicer(query_pb2_grpc.QueryServiceServicer):
    """The reports and lists of a site; see protos/footfall/query/v1/query.proto."""

    def __init__(self, db: Database, tokens: PageTokens, clock: Clock, *, pool_size: int = 8) -> None:
        """`pool_size` is how many connections `db` has at most."""
        self._db = db
        self.shares = Shares("reports", _bounds(pool_size))
        self._tokens = tokens
        self._clock = clock

    async def GetOverview(
        self, request: query_pb2.GetOverviewRequest, context: Context
    ) -> query_pb2.GetOverviewResponse:
        now = self._clock()
        return await self._ask(request, context, lambda c, site: reports.overview(c, site, request, now))

    async def GetTimeseries(
        self, request: query_pb2.GetTimeseriesRequest, context: Context
    ) -> query_pb2.GetTimeseriesResponse:
        now = self._clock()
        return await self._ask(request, context, lambda c, site: reports.timeseries(c, site, request, now))

    async def GetTop(self, request: query_pb2.GetTopRequest, context: Context) -> query_pb2.GetTopResponse:
        now = self._clock()
        return await self._ask(request, context, lambda c, site: reports.top(c, site, request, now))

    async def GetDashboard(
        self, request: query_pb2.GetDashboardRequest, context: Context
    ) -> query_pb2.GetDashboardResponse:
        now = self._clock()
        return await self._ask(request, context, lambda c, site: reports.dashboard(c, site, request, now))

    async def GetPropertyBreakdown(
        self, request: query_pb2.GetPropertyBreakdownRequest, context: Context
    ) -> query_pb2.GetPropertyBreakdownResponse:
        now = self._clock()
        return await self._ask(request, context, lambda c, site: reports.property_breakdown(c, site, request, now))

    async def ListEvents(self, request: query_pb2.ListEventsRequest, context: Context) -> query_pb2.ListEventsResponse:
        return await self._ask(request, context, lambda c, site: listings.list_events(c, site, request, self._tokens))

    async def ListSessions(
        self, request: query_pb2.ListSessionsRequest, context: Context
    ) -> query_pb2.ListSessionsResponse:
        return await self._ask(request, context, lambda c, site: listings.list_sessions(c, site, request, self._tokens))

    async def ListVisitors(
        self, request: query_pb2.ListVisitorsRequest, context: Context
    ) -> query_pb2.ListVisitorsResponse:
        return await self._ask(request, context, lambda c, site: listings.list_visitors(c, site, request, self._tokens))

    async def _ask(
        self,
        request: SiteRequest,
        context: Context,
        report: Callable[[psycopg.Connection[Any], Site], Answer],
    ) -> Answer:
        """Runs the report in one snapshot, in a thread of the site's and the key's share."""
        key = caller()
        if not request.site:
            raise invalid("site", Reason.FIELD_REQUIRED, "is empty; name a site by its slug")
        key.authorize_site(request.site)

        def ask(stop: Stop) -> Answer:
            with self._db.snapshot() as connection, stop.watching(connection):
                stop.bound_statements(connection)
                return report(connection, find_site(connection, request.site))

        return await self.shares.run(Caller(request.site, key.key_id), context.time_remaining(), ask)


def _bounds(pool_size: int) -> Bounds:
    """A report for each connection. A site gets a third of them, a key half."""
    return Bounds(pool_size, site_at_once=max(1, pool_size // 3), key_at_once=max(1, pool_size // 2))
