"""Whether all jobs keep up with a steady stream of events.

    python -m bench.steady [--rate 2000] [--seconds 300]

Before it starts, two days of events are aggregated, which then expire. Dedupe keys expire after a minute, and some
events are dead letters. Every 10 s it prints the backlogs: pending events, deltas not yet compacted, dead rows. At the
end it says of each whether it stayed level: the median of the last third is at most 1.5 times that of the middle third.
"""

import argparse
import os
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from footfall.admin.v1 import admin_pb2
from footfall.ingest.v1 import ingest_pb2
from google.protobuf import duration_pb2, field_mask_pb2

from bench.history import DAY, batches, send
from cli.connection_file import read_connection_file
from cli.suite import running_suite
from common.db import plain_url

SITE = "steady"
EVERY = 10.0
BEFORE = 100_000
SLACK = {"pending": 4_000, "deltas": 20_000, "dead": 50_000}
"""A backlog up to this size is level, whatever it was before."""

# Makes aggregated events dead letters, as if they had failed a day ago. The retry job queues them again.
_FAIL = """
INSERT INTO failed_events (site_id, batch_id, ord, partition, attempts, received_at, failed_at, error)
SELECT site_id, batch_id, ord, 0, 3, received_at, now() - interval '1 day', 'made by the benchmark'
FROM events LIMIT 500
"""


def paced(rate: int, seconds: float) -> Iterator[ingest_pb2.IngestStreamRequest]:
    """Batches of the present at a rate. If it is late, it catches up by one second at most."""
    rng = random.Random(2)  # the same load every time
    until = time.monotonic() + seconds
    due = time.monotonic()
    size = max(1, rate // 20)
    while time.monotonic() < until:
        now = int(time.time())
        yield from batches(size, now - 1, now, rng)
        due = max(due + size / rate, time.monotonic() - 1)
        time.sleep(max(0.0, due - time.monotonic()))


def main() -> None:
    """Prints a line every 10 s and the verdict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=2_000)
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--partitions", type=int, default=2)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="footfall-bench-"))
    folder.chmod(0o755)
    often = {"FOOTFALL_CLEANUP_SECONDS": "20", "FOOTFALL_PRUNE_SECONDS": "10", "FOOTFALL_RETRY_SECONDS": "30"}
    with running_suite(folder, (0, 0, 0), {**os.environ, **often}) as connection:
        written = read_connection_file(folder)
        assert written is not None
        with connection.open_admin() as admin, connection.open_ingest() as ingest:
            steady(admin, ingest, written.database_url, options)


def state(admin: Any) -> tuple[Any, dict[str, int]]:
    """The answer of GetStatus, and the backlogs."""
    status = admin.GetStatus(admin_pb2.GetStatusRequest(site=SITE))
    [site] = status.sites
    dead = sum(table.dead_rows for table in status.tables)
    return status, {"pending": site.pending_events, "deltas": site.unfolded_deltas, "dead": dead}


def steady(admin: Any, ingest: Any, database_url: str, options: argparse.Namespace) -> None:
    """Sends the history and then the stream, and prints the backlogs meanwhile."""
    settings = admin_pb2.SiteSettings(
        retention_days=10, dedupe_retention=duration_pb2.Duration(seconds=60), rollup_shard_count=options.partitions
    )
    key = admin.CreateSite(admin_pb2.CreateSiteRequest(slug=SITE, settings=settings)).write_key
    now = int(time.time())
    send(ingest, key, [batches(BEFORE, now - 4 * DAY, now - 2 * DAY, random.Random(1))])  # as above
    while any(state(admin)[1][name] for name in ("pending", "deltas")):
        time.sleep(0.5)
    with psycopg.connect(plain_url(database_url), autocommit=True) as database:
        database.execute(_FAIL)
    # These events were aggregated before and so are aggregated twice. Only the load matters here, not the numbers.
    request = admin_pb2.UpdateSiteRequest(
        site=admin_pb2.Site(slug=SITE, settings=admin_pb2.SiteSettings(retention_days=1)),
        update_mask=field_mask_pb2.FieldMask(paths=["settings.retention_days"]),
    )
    admin.UpdateSite(request)
    accepted: list[int] = []
    sender = threading.Thread(
        target=lambda: accepted.append(send(ingest, key, [paced(options.rate, options.seconds)])), daemon=True
    )
    began = time.monotonic()
    sender.start()
    seen: list[dict[str, int]] = []
    print("seconds    pending   oldest s     deltas  dead rows   failed   of them dead", flush=True)
    while sender.is_alive():
        sender.join(EVERY)
        status, waits = state(admin)
        seen.append(waits)
        [site] = status.sites
        most = ", ".join(
            f"{table.name} {table.dead_rows:,}" for table in sorted(status.tables, key=lambda one: -one.dead_rows)[:3]
        )
        age = site.oldest_pending_age.ToMicroseconds() / 1e6
        print(
            f"{time.monotonic() - began:>7.0f} {waits['pending']:>10,} {age:>10.1f} "
            f"{waits['deltas']:>10,} {waits['dead']:>10,} {site.failed_events:>8,}   {most}",
            flush=True,
        )
    seconds = time.monotonic() - began
    print(f"{sum(accepted):,} events acknowledged, {sum(accepted) / seconds:,.0f} a second")
    for run in (*site.jobs, *status.jobs):
        print(f"last run of {run.job}: {run.pages:,} chunks, {run.rows:,} rows {run.error}")
    third = len(seen) // 3
    for name, slack in SLACK.items():
        middle, last = (
            statistics.median(waits[name] for waits in part) for part in (seen[third : 2 * third], seen[2 * third :])
        )
        level = last <= max(middle * 1.5, slack)
        print(f"{name}: middle {middle:,.0f}, last {last:,.0f}: {'level' if level else 'RISING'}")


if __name__ == "__main__":
    main()
