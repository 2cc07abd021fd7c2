"""How many deltas a second compaction adds to their hours and days, and how many rows a second cleanup deletes.

    python -m bench.compaction [--scale 0.1] [--json FILE]

The deltas are those of aggregating a backlog of two hours: once in chunks of the default size, so that a key has few
deltas in an hour, and once in small chunks, like those of a quiet site, so that it has many. Then the events, sessions,
rollups and visitors of the same sites are cleaned up, as if their retention were over. CompactRollups and CleanupSite
are called with their default limits.
"""

import time
from datetime import UTC, datetime, timedelta

from footfall.admin.v1 import admin_pb2

from bench.aggregate import drain
from bench.backlog import make_backlog, send_backlog
from bench.command_line import main, say
from bench.figures import Figure
from bench.own_suite import Stage, open_stage
from bench.yardstick import Yardstick

PART = "compaction"
EVENTS = 100_000
_YARDSTICK_EVENTS = 50_000
_RETENTION_DAYS = 30
_CHUNKS = {"large chunks": 0, "small chunks": 500}
"""Events of a chunk of aggregation; 0 = the default."""

_COUNT = "SELECT count(*) FROM rollup_shards WHERE site_id = %s"
# In a running installation autovacuum would have done this.
_ANALYZE = "ANALYZE events, sessions, visitors, rollup_shards"


def measure(scale: float) -> list[Figure]:
    """Compacts and cleans up after few large and after many small chunks, on a suite of its own."""
    figures = []
    with open_stage() as stage:
        requests = make_backlog(round(EVENTS * scale))
        yardstick = Yardstick(stage.database_url)
        yardstick.run(round(_YARDSTICK_EVENTS * scale))
        for name, chunk_events in _CHUNKS.items():
            site = name.replace(" ", "-")
            send_backlog(stage, stage.create_site(site, days=_RETENTION_DAYS), requests)
            drain(stage.connection, site, chunk_events)
            figures += _compact(stage, name, site, yardstick)
            yardstick.run(round(_YARDSTICK_EVENTS * scale))
        figures += _clean_up(stage, [name.replace(" ", "-") for name in _CHUNKS], yardstick)
    return [*figures, Figure(PART, "bare loop", yardstick.rate, "rows/s")]


def _compact(stage: Stage, name: str, site: str, yardstick: Yardstick) -> list[Figure]:
    compacted, token = 0, ""
    with stage.connection.open_admin() as admin, stage.database() as connection:
        connection.execute(_ANALYZE)
        began = time.perf_counter()
        while True:
            chunk = admin.CompactRollups(admin_pb2.CompactRollupsRequest(site=site, page_token=token))
            compacted, token = compacted + chunk.compacted_shards, chunk.next_page_token
            if not token:
                break
        seconds = time.perf_counter() - began
        (rows,) = connection.execute(_COUNT, (stage.site_id(site),)).fetchone() or (0,)
    say(f"compaction: {compacted:,} deltas into {rows:,} rows in {seconds:.1f} s")
    rate = compacted / seconds
    return [
        Figure(PART, f"compaction, {name}: deltas a second over the bare loop's rows", rate / yardstick.rate, "×"),
        Figure(PART, f"  compaction, {name}", rate, "deltas/s"),
        Figure(PART, f"  compaction, {name}: deltas that became one row", compacted / max(rows, 1)),
    ]


def _clean_up(stage: Stage, sites: list[str], yardstick: Yardstick) -> list[Figure]:
    deleted = 0
    later = datetime.now(UTC) + timedelta(days=2 * _RETENTION_DAYS)
    with stage.connection.open_admin() as admin, stage.database() as connection:
        connection.execute(_ANALYZE)
        began = time.perf_counter()
        for site in sites:
            request = admin_pb2.CleanupSiteRequest(site=site)
            request.now.FromDatetime(later)
            while True:
                chunk = admin.CleanupSite(request)
                deleted += chunk.events + chunk.sessions + chunk.hourly_rollups + chunk.daily_rollups + chunk.visitors
                if not chunk.has_more:
                    break
                request.page_token = chunk.next_page_token
        seconds = time.perf_counter() - began
    say(f"compaction: {deleted:,} expired rows deleted in {seconds:.1f} s")
    rate = deleted / seconds
    return [
        Figure(PART, "cleanup: rows a second over the bare loop's rows", rate / yardstick.rate, "×"),
        Figure(PART, "  cleanup", rate, "rows/s"),
    ]


if __name__ == "__main__":
    main(__doc__, measure)
