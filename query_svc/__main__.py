"""`python -m query_svc`: one query process, configured by FOOTFALL_* variables."""

from footfall.query.v1 import query_pb2_grpc

from common.clock import system_clock
from common.db import QUICK, Database
from common.keys import KeyRing
from common.secrets_store import page_tokens
from common.server import serve
from common.settings import Settings
from common.workers import run
from query_svc.servicer import SERVICE, QueryServicer

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
    servicer = QueryServicer(db, KeyRing(db.limited(QUICK), system_clock), page_tokens(db), system_clock)

    async def stop() -> None:
        db.close()

    await serve(
        settings,
        SERVICE,
        PORT,
        lambda server: query_pb2_grpc.add_QueryServiceServicer_to_server(servicer, server),
        stop,
        db,
    )


if __name__ == "__main__":
    run("query_svc", PORT, main)
