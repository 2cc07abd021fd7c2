"""How many events a second one ingest process acknowledges, beside what one bare connection stores.

    python -m bench.ingest [--seconds 10] [--callers 32] [--events 50]

The yardstick runs the same two statements of the same shape on the same server and tables: the insert of
the dedupe keys and the COPY of the events, 2,000 rows a transaction, rows made ready beforehand. Both are run
in turns, because these figures mean something only beside each other.
"""

import argparse
import asyncio
import itertools
import os
import random
import statistics
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import psycopg
from footfall.admin.v1 import admin_pb2
from footfall.ingest.v1 import ingest_pb2

from bench.events import batch
from cli.connection import Connection
from cli.suite import running_suite
from common.db import plain_url
from common.sites import ACTIVE, Site
from ingest_svc.wire import COPY_COLUMNS, Row, to_rows

YARDSTICK_ROWS = 2_000
INGEST = "/footfall.ingest.v1.IngestService/IngestBatch"

_INSERT_KEYS = """
INSERT INTO ingest_dedupes (site_id, dedupe_key, expires_at) SELECT %s, key, %s FROM unnest(%s::uuid[]) AS key
ON CONFLICT (site_id, dedupe_key) DO NOTHING
"""
_COPY = f"COPY events ({', '.join(COPY_COLUMNS)}) FROM STDIN WITH (NULL '')"


async def load(connection: Connection, key: str, callers: int, requests: list[bytes]) -> tuple[float, list[float]]:
    """Sends the requests from `callers` callers; returns the seconds it took and those of each call."""
    latencies: list[float] = []
    queue = iter(requests)
    async with grpc.aio.insecure_channel(connection.ingest) as channel:
        call = channel.unary_unary(INGEST, lambda data: data, ingest_pb2.IngestBatchResponse.FromString)
        await call(b"", metadata=(("x-write-key", key),))

        async def caller() -> None:
            for request in queue:
                began = time.perf_counter()
                await call(request, metadata=(("x-write-key", key),))
                latencies.append(time.perf_counter() - began)

        began = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(callers)))
        return time.perf_counter() - began, latencies


def yardstick(database_url: str, rows: list[Row], batch_ids: "itertools.count[int]") -> float:
    """Stores the rows through one bare connection; returns the seconds it took."""
    expires = datetime.now(UTC) + timedelta(days=1)
    chunks = []
    for start in range(0, len(rows), YARDSTICK_ROWS):
        part, number = rows[start : start + YARDSTICK_ROWS], next(batch_ids)
        lines = "".join(f"{row.times}\t{number}\t-1\t{ord_}\t{row.texts}\n" for ord_, row in enumerate(part))
        keys = "{" + ",".join(sorted(row.dedupe_key or "" for row in part)) + "}"
        chunks.append((keys, lines))
    with psycopg.connect(plain_url(database_url)) as connection:
        began = time.perf_counter()
        for keys, lines in chunks:
            connection.execute(_INSERT_KEYS, (-1, expires, keys))
            with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
                copy.write(lines)
            connection.commit()
        return time.perf_counter() - began


def main() -> None:
    """Prints the figures of each round and the median ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=2_000, help="calls a round")
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--events", type=int, default=50, help="events a call")
    options = parser.parse_args()
    rng = random.Random(1)  # the same load every time
    site = Site(-1, "yardstick", "", ACTIVE, 0, None, None, None, None, 0, 1, [], [], [])
    batch_ids = itertools.count()
    ratios = []
    folder = Path(tempfile.mkdtemp(prefix="footfall-bench-"))
    folder.chmod(0o755)
    environment = {**os.environ, "FOOTFALL_SCHEDULE": "off"}
    with running_suite(folder, (0, 0, 0), environment) as connection:
        with connection.open_admin() as admin:
            key = admin.CreateSite(admin_pb2.CreateSiteRequest(slug="bench")).write_key
        url = (folder / "footfall.json").read_text().split('"database_url": "')[1].split('"')[0]
        for number in range(options.rounds):
            requests = [batch(options.events, rng).SerializeToString() for _ in range(options.calls)]
            seconds, latencies = asyncio.run(load(connection, key, options.callers, requests))
            ingest_rate = options.calls * options.events / seconds
            now = datetime.now(UTC)
            rows = [row for _ in range(options.calls) for row in to_rows(batch(options.events, rng), site, now)[0]]
            bare_rate = len(rows) / yardstick(url, rows, batch_ids)
            ratios.append(ingest_rate / bare_rate)
            cuts = statistics.quantiles(latencies, n=100)
            print(
                f"round {number + 1}: ingest {ingest_rate:>9,.0f} events/s   bare {bare_rate:>9,.0f} events/s   "
                f"ratio {ratios[-1]:.2f}   per call p50 {cuts[49] * 1e3:.0f} p95 {cuts[94] * 1e3:.0f} "
                f"p99 {cuts[98] * 1e3:.0f} ms",
                flush=True,
            )
    print(f"median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
