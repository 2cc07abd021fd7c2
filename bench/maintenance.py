"""How fast each maintenance job is through gRPC, how long its longest chunk takes, and whether reports stay the same.

    python -m bench.maintenance [--events 1000000] [--days 40] [--partitions 8]

At the end raw events are kept for a quarter of the days, hour rows for half, day rows for three quarters.
"""

import argparse
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from footfall.admin.v1 import admin_pb2
from footfall.query.v1 import query_pb2
from google.protobuf import duration_pb2, field_mask_pb2

from bench.history import DAY, batches, send
from cli.connection_file import read_connection_file
from cli.suite import running_suite
from common.db import plain_url

SITE = "bench"
DEAD_LETTERS = 20_000
STREAMS = 4

# Makes the events of the newest pending batches dead letters, as if each had failed three times.
_ADD_DEAD_LETTERS = """
WITH newest AS (
    SELECT *, sum(last_ord - first_ord + 1) OVER (ORDER BY batch_id DESC, first_ord) AS events FROM pending_batches
), chunk AS (
    DELETE FROM pending_batches p USING newest n
    WHERE n.events <= %s
      AND (p.site_id, p.partition, p.batch_id, p.first_ord) = (n.site_id, n.partition, n.batch_id, n.first_ord)
    RETURNING p.*
)
INSERT INTO failed_events (site_id, batch_id, ord, partition, attempts, received_at, failed_at, error)
SELECT site_id, batch_id, ord, partition, 3, received_at, received_at, 'made by the benchmark'
FROM chunk CROSS JOIN generate_series(first_ord, last_ord) AS ord
"""


class Timed(NamedTuple):
    """The answer of a chunk, and how long it took."""

    answer: Any
    milliseconds: float


def chunks(ask: Callable[[str], Any]) -> Iterator[Timed]:
    """Chunk after chunk until there is no more."""
    token = ""
    while True:
        began = time.perf_counter()
        answer = ask(token)
        yield Timed(answer, (time.perf_counter() - began) * 1000)
        if not answer.has_more:
            return
        token = getattr(answer, "next_page_token", "")


def run(name: str, ask: Callable[[str], Any], rows: Callable[[Any], int], between: Callable[[], None]) -> None:
    """Runs a job to its end. `between` is called after every tenth of the first hundred chunks, then every 50th."""
    took: list[float] = []
    total = 0
    for number, chunk in enumerate(chunks(ask)):
        total += rows(chunk.answer)
        took.append(chunk.milliseconds)
        if number % (10 if number < 100 else 50) == 0:
            between()
    seconds = sum(took) / 1000
    ranked = sorted(took)
    print(
        f"{name:<10} {total:>10,} rows   {total / max(seconds, 1e-9):>9,.0f} rows/s   {len(took):>5} chunks   "
        f"chunk median {ranked[len(ranked) // 2]:>6.0f} ms   longest {ranked[-1]:>6.0f} ms",
        flush=True,
    )


def asked(query: Any, now: int, days: int) -> list[bytes]:
    """Three dashboards over data that stays: with edges of raw events, of whole hours, and of whole days."""
    quarter = days // 4
    spans = (
        (now - (quarter - 1) * DAY + 1_234, now - 4_321, query_pb2.INTERVAL_HOUR),
        ((now - (2 * quarter - 1) * DAY) // 3_600 * 3_600, now // 3_600 * 3_600, query_pb2.INTERVAL_HOUR),
        ((now // DAY - 3 * quarter + 1) * DAY, now // DAY * DAY, query_pb2.INTERVAL_DAY),
    )
    found = []
    for start, end, interval in spans:
        request = query_pb2.GetDashboardRequest(site=SITE, interval=interval)
        request.range.start_time.FromSeconds(start)
        request.range.end_time.FromSeconds(end)
        for dimension in (query_pb2.DIMENSION_PAGE, query_pb2.DIMENSION_COUNTRY, query_pb2.DIMENSION_EXIT_PAGE):
            request.tops.add(dimension=dimension, limit=50)
        dashboard = query.GetDashboard(request).dashboard
        if not dashboard.metadata.exact:
            raise SystemExit(f"a report over data that stays is not exact: {dashboard.metadata}")
        dashboard.ClearField("metadata")
        found.append(dashboard.SerializeToString(deterministic=True))
    return found


def main() -> None:
    """Prints a line for each job."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--days", type=int, default=40)
    parser.add_argument("--partitions", type=int, default=8)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="footfall-bench-"))
    folder.chmod(0o755)
    with running_suite(folder, (0, 0, 0), {**os.environ, "FOOTFALL_SCHEDULE": "off"}) as connection:
        written = read_connection_file(folder)
        assert written is not None
        with connection.open_admin() as admin, connection.open_query() as query, connection.open_ingest() as ingest:
            bench(admin, query, ingest, written.database_url, options)


def bench(admin: Any, query: Any, ingest: Any, database_url: str, options: argparse.Namespace) -> None:
    """Runs all jobs on one site."""
    now = int(time.time())
    start = now - options.days * DAY
    settings = admin_pb2.SiteSettings(
        retention_days=options.days + 1,
        dedupe_retention=duration_pb2.Duration(seconds=1),
        rollup_shard_count=options.partitions,
    )
    key = admin.CreateSite(admin_pb2.CreateSiteRequest(slug=SITE, settings=settings)).write_key
    began = time.perf_counter()
    per_stream, length = options.events // STREAMS, (now - start) // STREAMS
    accepted = send(
        ingest,
        key,
        [
            batches(per_stream, start + part * length, start + (part + 1) * length, random.Random(part))
            for part in range(STREAMS)
        ],
    )
    seconds = time.perf_counter() - began
    print(f"ingest     {accepted:>10,} rows   {accepted / seconds:>9,.0f} rows/s", flush=True)
    with psycopg.connect(plain_url(database_url), autocommit=True) as database:
        database.execute(_ADD_DEAD_LETTERS, (min(DEAD_LETTERS, options.events // 10),))

        def nothing() -> None:
            pass

        def aggregate(_: str) -> Any:
            return admin.AggregatePending(admin_pb2.AggregatePendingRequest(site=SITE))

        def retry(_: str) -> Any:
            return admin.RetryFailedEvents(admin_pb2.RetryFailedEventsRequest(site=SITE))

        def compact(token: str) -> Any:
            return admin.CompactRollups(admin_pb2.CompactRollupsRequest(site=SITE, page_token=token))

        def cleanup(token: str) -> Any:
            return admin.CleanupSite(admin_pb2.CleanupSiteRequest(site=SITE, page_token=token))

        def prune(_: str) -> Any:
            return admin.PruneExpired(admin_pb2.PruneExpiredRequest())

        run("aggregate", aggregate, lambda chunk: chunk.aggregated, nothing)
        run("retry", retry, lambda chunk: chunk.requeued, nothing)
        run("aggregate", aggregate, lambda chunk: chunk.aggregated, nothing)
        before = asked(query, now, options.days)
        compared = 0

        def same() -> None:
            nonlocal compared
            if asked(query, now, options.days) != before:
                raise SystemExit("a report over data that stays has changed")
            compared += 1

        run("compact", compact, lambda chunk: chunk.compacted_shards, same)
        same()
        quarter = options.days // 4
        shorter = admin_pb2.SiteSettings(
            raw_event_retention_days=quarter,
            hourly_rollup_retention_days=2 * quarter,
            daily_rollup_retention_days=3 * quarter,
        )
        admin.UpdateSite(
            admin_pb2.UpdateSiteRequest(
                site=admin_pb2.Site(slug=SITE, settings=shorter),
                update_mask=field_mask_pb2.FieldMask(
                    paths=[f"settings.{field.name}" for field, _ in shorter.ListFields() if "retention" in field.name]
                ),
            )
        )
        sums: dict[str, int] = {}

        def cleaned(chunk: Any) -> int:
            kinds = ("events", "sessions", "hourly_rollups", "daily_rollups", "visitors")
            for kind in kinds:
                sums[kind] = sums.get(kind, 0) + getattr(chunk, kind)
            return sum(getattr(chunk, kind) for kind in kinds)

        run("cleanup", cleanup, cleaned, same)
        same()
        print("           of them " + ", ".join(f"{count:,} {kind}" for kind, count in sums.items()))
        run("prune", prune, lambda chunk: chunk.deleted, same)
        same()
        print(f"3 dashboards over data that stays were compared {compared} times and were the same")


if __name__ == "__main__":
    main()
