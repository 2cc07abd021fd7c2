"""`python -m ingest_svc`: one ingest process, configured by FOOTFALL_* variables."""

import asyncio
import time

from footfall.ingest.v1 import ingest_pb2_grpc

from common.calls.messages import MessageLimits
from common.clock import system_clock
from common.db import QUICK, Database
from common.keys.ring import KeyRing
from common.process.server import Service, serve
from common.process.workers import run
from common.settings import Settings
from ingest_svc.batch_size import MAX_MESSAGE_BYTES, BatchSize
from ingest_svc.database_commit import DatabaseCommit
from ingest_svc.group_commit import GroupCommit
from ingest_svc.rate_limit import RateLimits
from ingest_svc.servicer import SERVICE, IngestServicer, Senders

PORT = 50051

_TRANSACTIONS = 2
"""How many run at once. While Postgres works on one, the rows of the other are put together. A third gained nothing."""


async def main(settings: Settings) -> None:
    """Serves until a signal to stop, and commits what is queued then."""
    db = Database(
        settings.database_url,
        application="footfall ingest",
        pool_size=settings.pool_size,
        prepared_statements=settings.prepared_statements,
    )
    keys = KeyRing(db.limited(QUICK), system_clock)
    commits = [DatabaseCommit(db, system_clock) for _ in range(_TRANSACTIONS)]
    group_commit = GroupCommit(commits, settings.ingest_queue_events, settings.ingest_queue_bytes)
    senders = Senders(keys)
    servicer = IngestServicer(senders, group_commit, RateLimits(time.monotonic_ns), system_clock)

    async def stop() -> None:
        await group_commit.close()
        for commit in commits:
            commit.close()
        await asyncio.to_thread(keys.close)
        db.close()

    service = Service(
        SERVICE,
        PORT,
        lambda server: ingest_pb2_grpc.add_IngestServiceServicer_to_server(servicer, server),
        senders.authenticate,
        MessageLimits(MAX_MESSAGE_BYTES, BatchSize(settings.max_batch_events).check, field="events"),
        stop,
        servicer.drain_streams,
    )
    await serve(settings, service, db)


if __name__ == "__main__":
    run("ingest_svc", PORT, main)
