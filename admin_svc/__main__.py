"""`python -m admin_svc`: one admin process, configured by FOOTFALL_* variables."""

import asyncio

from footfall.admin.v1 import admin_pb2_grpc

from admin_svc.backlog_metrics import BacklogMetrics
from admin_svc.counting.aggregate import Aggregator
from admin_svc.counting.visitor_numbers import VisitorNumbers
from admin_svc.maintenance_rpcs import HOW_TO_AUTHENTICATE
from admin_svc.schedule.jobs import jobs
from admin_svc.schedule.schedule import Schedule
from admin_svc.servicer import SERVICE, AdminServicer
from admin_svc.sites.api_keys import ensure_admin_key
from common.calls.bearer import bearers
from common.calls.messages import MessageLimits
from common.clock import system_clock
from common.db import QUICK, Database, DatabaseFault
from common.keys.key import KeyKind
from common.keys.ring import KeyRing
from common.process.readiness import Readiness
from common.process.server import MAX_REQUEST_BYTES, Service, serve
from common.process.workers import run
from common.secrets_store import page_tokens
from common.settings import Settings

PORT = 50053


async def main(settings: Settings) -> None:
    """Serves and runs the schedule until a signal to stop, and then finishes the chunks under way."""
    db = Database(
        settings.database_url,
        application="footfall admin",
        pool_size=settings.pool_size,
        prepared_statements=settings.prepared_statements,
    )
    # A pool of its own, because a chunk that waits for numbers holds a connection of the other pool.
    numbers_db = Database(
        settings.database_url,
        application="footfall visitor numbers",
        pool_size=1,
        prepared_statements=settings.prepared_statements,
    )
    aggregator = Aggregator(VisitorNumbers(numbers_db))
    keys = KeyRing(db.limited(QUICK), system_clock)
    servicer = AdminServicer(db, page_tokens(db), aggregator, system_clock)
    # Before anything is stored or scheduled.
    await Readiness(db).check_at_start()
    if settings.admin_key:
        try:
            with db.transaction() as connection:
                ensure_admin_key(connection, settings.admin_key, system_clock())
        except DatabaseFault as error:
            raise SystemExit(f"the database, which shall store FOOTFALL_ADMIN_KEY, cannot be used: {error}") from None
    schedule = Schedule(
        db,
        jobs(settings, aggregator) if settings.schedule else [],
        system_clock,
        run_seconds=settings.run_seconds,
        run_chunks=settings.run_pages,
    )
    schedule.start()
    backlog = BacklogMetrics(db, system_clock)
    if settings.metrics_listen:
        backlog.start()

    async def stop() -> None:
        await asyncio.to_thread(schedule.stop)
        await servicer.stop()
        backlog.stop()
        await asyncio.to_thread(keys.close)
        db.close()
        numbers_db.close()

    service = Service(
        SERVICE,
        PORT,
        lambda server: admin_pb2_grpc.add_AdminServiceServicer_to_server(servicer, server),
        bearers(keys, HOW_TO_AUTHENTICATE, KeyKind.ADMIN),
        MessageLimits(MAX_REQUEST_BYTES),
        stop,
    )
    await serve(settings, service, db)


if __name__ == "__main__":
    run("admin_svc", PORT, main)
