"""The maintenance RPCs: each does one bounded page of work and says whether another would find more."""

from datetime import datetime, timedelta

from footfall.admin.v1 import admin_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from admin_svc import aggregate, cleanup, compact, delete_site, erase, failed, prune, rebuild, status
from admin_svc.aggregate import Aggregator
from admin_svc.pending import backlog
from common.clock import Clock
from common.db import Database
from common.errors import Reason, invalid
from common.page_tokens import PageTokens
from common.paging import bounded, cut_page, page_size
from common.sites import find_site
from common.timestamps import EPOCH, duration_micros, from_timestamp

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

    def retry_failed_events(self, request: admin_pb2.RetryFailedEventsRequest) -> admin_pb2.RetryFailedEventsResponse:
        """RetryFailedEvents."""
        limit = bounded("limit", request.limit, default=failed.DEFAULT_LIMIT, most=failed.MAX_LIMIT)
        with self._db.connection() as connection:
            site_id = find_site(connection, request.site).site_id
            requeued, has_more = failed.retry_once(connection, site_id, self._clock(), limit)
        return admin_pb2.RetryFailedEventsResponse(requeued=requeued, has_more=has_more)

    def list_failed_events(self, request: admin_pb2.ListFailedEventsRequest) -> admin_pb2.ListFailedEventsResponse:
        """ListFailedEvents."""
        size, bound = page_size(request.page_size), ("ListFailedEvents", request.site)
        after = self._tokens.open(bound, request.page_token) or [-1, -1]
        with self._db.connection() as connection:
            site_id = find_site(connection, request.site).site_id
            rows = failed.list_failed(connection, site_id, after, size + 1)
        page, token = cut_page(rows, size, failed.to_proto, self._tokens, bound, lambda row: [row.batch_id, row.ord])
        return admin_pb2.ListFailedEventsResponse(failed_events=page, has_more=bool(token), next_page_token=token)

    def compact_rollups(self, request: admin_pb2.CompactRollupsRequest) -> admin_pb2.CompactRollupsResponse:
        """CompactRollups."""
        limit = bounded("limit", request.limit, default=compact.DEFAULT_LIMIT, most=compact.MAX_LIMIT)
        if request.interval not in admin_pb2.RollupInterval.values():
            raise invalid("interval", Reason.VALUE_UNKNOWN, "must be HOUR or DAY, or absent for both")
        bound = ("CompactRollups", request.site, str(request.interval))
        cursor = self._tokens.open(bound, request.page_token)
        with self._db.connection() as connection:
            site_id = find_site(connection, request.site).site_id
            # What is written from the first page on is left to later runs, so that the pages end under load too.
            newest, dimension, hour = cursor or (compact.newest_shard(connection), -1, 0)
            position = (int(dimension), EPOCH + timedelta(microseconds=int(hour)))
            page = compact.run_once(connection, site_id, limit, position)
            left = compact.next_delta(connection, site_id, page.position, int(newest)) if page.shards else None
        token = ""
        if left is not None:
            dimension, start = left
            token = self._tokens.seal(bound, [int(newest), dimension, duration_micros(start - EPOCH)])
        return admin_pb2.CompactRollupsResponse(
            compacted_shards=page.shards,
            compacted_keys=page.keys,
            has_more=bool(token),
            next_page_token=token,
        )

    def cleanup_site(self, request: admin_pb2.CleanupSiteRequest) -> admin_pb2.CleanupSiteResponse:
        """CleanupSite."""
        limit = bounded("limit", request.limit, default=cleanup.DEFAULT_LIMIT, most=cleanup.MAX_LIMIT)
        asked = _instant("now", request.now) if request.HasField("now") else None
        bound = ("CleanupSite", request.site, asked.isoformat() if asked else "", str(request.dry_run))
        cursor = self._tokens.open(bound, request.page_token)
        if cursor is None:
            now, position = asked or self._clock(), cleanup.FIRST
        else:
            now, position = cleanup.from_cursor(cursor)
        with self._db.connection() as connection:
            site = find_site(connection, request.site)
            if request.dry_run:
                page = cleanup.count_once(connection, site, now, limit, position)
            else:
                page = cleanup.run_once(connection, site, now, limit)
        return admin_pb2.CleanupSiteResponse(
            **page.counts,
            has_more=page.has_more,
            next_page_token=self._tokens.seal(bound, cleanup.to_cursor(now, page.position)) if page.has_more else "",
        )

    def prune_expired(self, request: admin_pb2.PruneExpiredRequest) -> admin_pb2.PruneExpiredResponse:
        """PruneExpired."""
        limit = bounded("limit", request.limit, default=prune.DEFAULT_LIMIT, most=prune.MAX_LIMIT)
        with self._db.connection() as connection:
            page = prune.run_once(connection, self._clock(), limit)
        return admin_pb2.PruneExpiredResponse(deleted=page.deleted, has_more=page.has_more)

    def get_status(self, request: admin_pb2.GetStatusRequest) -> admin_pb2.GetStatusResponse:
        """GetStatus."""
        size, bound = page_size(request.page_size), ("GetStatus", request.site)
        after = self._tokens.open(bound, request.page_token) or [""]
        with self._db.snapshot() as connection:
            if request.site:
                find_site(connection, request.site)
            rows = status.site_rows(connection, request.site, str(after[0]), size + 1)
            states = status.site_states(connection, rows[:size], self._clock())
            page, token = cut_page(
                rows, size, lambda row: states[rows.index(row)], self._tokens, bound, lambda row: [row[1]]
            )
            return admin_pb2.GetStatusResponse(
                sites=page,
                tables=status.table_states(connection),
                jobs=status.common_runs(connection),
                has_more=bool(token),
                next_page_token=token,
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

    def delete_site(self, request: admin_pb2.DeleteSiteRequest) -> admin_pb2.DeleteSiteResponse:
        """DeleteSite."""
        limit = bounded("limit", request.limit, default=delete_site.DEFAULT_LIMIT, most=delete_site.MAX_LIMIT)
        if request.confirm_slug != request.site:
            message = f"is {request.confirm_slug!r}; give the slug {request.site!r} here too"
            raise invalid("confirm_slug", Reason.CONFIRMATION_REQUIRED, message)
        with self._db.connection() as connection:
            page = delete_site.run_once(connection, request.site, self._clock(), limit)
        return admin_pb2.DeleteSiteResponse(deleted=page.deleted, has_more=page.has_more)

    def erase_visitor(self, request: admin_pb2.EraseVisitorRequest) -> admin_pb2.EraseVisitorResponse:
        """EraseVisitor."""
        limit = bounded("limit", request.limit, default=erase.DEFAULT_LIMIT, most=erase.MAX_LIMIT)
        subject = erase.subject_of(request)
        bound = ("EraseVisitor", request.site, *subject)
        cursor = self._tokens.open(bound, request.page_token)
        with self._db.connection() as connection:
            site_id = find_site(connection, request.site).site_id
            page = erase.run_once(connection, self._aggregator, site_id, self._clock(), limit, subject, cursor)
        return admin_pb2.EraseVisitorResponse(
            events=page.events,
            sessions=page.sessions,
            visitors=page.visitors,
            has_more=page.cursor is not None,
            next_page_token="" if page.cursor is None else self._tokens.seal(bound, page.cursor),
        )


def _instant(field: str, value: Timestamp) -> datetime:
    try:
        return from_timestamp(value)
    except ValueError as error:
        raise invalid(field, Reason.RANGE_INVALID, f"is not a valid time: {error}") from error
