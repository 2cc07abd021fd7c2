"""The maintenance RPCs: each does one bounded page of work and says whether another would find more."""

from footfall.admin.v1 import admin_pb2

from admin_svc import aggregate, rebuild
from admin_svc.aggregate import Aggregator
from admin_svc.pending import backlog
from common.clock import Clock
from common.db import Database
from common.page_tokens import PageTokens
from common.paging import bounded
from common.sites import find_site

_LANE_PATIENCE_MS = 5_000
"""How long AggregatePending waits for a worker that holds the site's only busy lane."""


class Maintenance:
    """One method per RPC, blocking; all raise CallError for a request that makes no sense and a DatabaseFault."""

    def __init__(self, db: Database, tokens: PageTokens, aggregator: Aggregator, clock: Clock) -> None:
        self._db = db
        self._tokens = tokens
        self._aggregator = aggregator
        self._clock = clock

    def aggregate_pending(self, request: admin_pb2.AggregatePendingRequest) -> admin_pb2.AggregatePendingResponse:
        """AggregatePending."""
        limit = bounded("limit", request.limit, default=aggregate.DEFAULT_LIMIT, most=aggregate.MAX_LIMIT)
        with self._db.connection() as connection:
            site_id = find_site(connection, request.site).site_id
            page = self._aggregator.run_site_once(connection, site_id, self._clock(), limit, wait_ms=_LANE_PATIENCE_MS)
            remaining, due = backlog(connection, site_id, self._clock())
        return admin_pb2.AggregatePendingResponse(
            aggregated=page.aggregated,
            failed=page.failed,
            # Nothing could be claimed although something is due: others are working on it.
            skipped=0 if page.worked else due,
            remaining=remaining,
            has_more=due > 0,
        )

    def rebuild_site(self, request: admin_pb2.RebuildSiteRequest) -> admin_pb2.RebuildSiteResponse:
        """RebuildSite."""
        limit = bounded("limit", request.limit, default=rebuild.DEFAULT_LIMIT, most=rebuild.MAX_LIMIT)
        bound = ("RebuildSite", request.site)
        cursor = self._tokens.open(bound, request.page_token)
        with self._db.connection() as connection:
            site_id = find_site(connection, request.site).site_id
            number = None if cursor is None else int(cursor[0])
            page = rebuild.run_once(connection, self._aggregator, site_id, self._clock(), limit, number)
        return admin_pb2.RebuildSiteResponse(
            queued=page.queued,
            cleared=page.cleared,
            aggregated=page.aggregated,
            failed=page.failed,
            remaining=page.remaining,
            has_more=page.has_more,
            next_page_token=self._tokens.seal(bound, [page.number]) if page.has_more else "",
        )
