"""`python -m query_svc`: one query process, configured by FOOTFALL_* variables."""

import asyncio

from footfall.query.v1 import query_pb2_grpc

from common.calls.bearer import bearers
from common.calls.messages import MessageLimits
from common.clock import system_clock
from common.db import QUICK, Database
from common.keys.key import KeyKind
from common.keys.ring import KeyRing
from common.process.server import MAX_REQUEST_BYTES, Service, serve
from common.process.workers import run
from common.secrets_store import page_tokens
from common.settings import Settings
from query_svc.servicer import HOW_TO_AUTHENTICATE, SERVICE, QueryServicer

PORT = 50052


async def main(settings: Settings) -> None:
    """Serves until a signal to stop."""
    db = Database(
        settings.database_url,
        application="footfall query",
        pool_size=settings.pool_size,
        statement_timeout_ms=settings.statement_timeout_ms,
        prepared_statements=settings.prepared_statements,
    )
    keys = KeyRing(db.limited(QUICK), system_clock)
    servicer = QueryServicer(db, page_tokens(db), system_clock, pool_size=settings.pool_size)

    async def stop() -> None:
        await servicer.shares.stop()
        await asyncio.to_thread(keys.close)
        db.close()

    service = Service(
        SERVICE,
        PORT,
        lambda server: query_pb2_grpc.add_QueryServiceServicer_to_server(servicer, server),
        bearers(keys, HOW_TO_AUTHENTICATE, KeyKind.READ, KeyKind.ADMIN),
        MessageLimits(MAX_REQUEST_BYTES),
        stop,
    )
    await serve(settings, service, db)


if __name__ == "__main__":
    run("query_svc", PORT, main)
