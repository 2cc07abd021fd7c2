"""A service serves only on a schema it knows, and says that it is ready only while the database answers."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import grpc
import psycopg
import pytest
import sqlalchemy as sa
from grpc_health.v1 import health_pb2, health_pb2_grpc

from common.db import Database, plain_url
from common.migrate import MIGRATION_LIMITS, migrate
from common.schema_revision import known_revisions
from tests.support.processes import eventually, running_service
from tests.support.suite import database_on

SERVICES = ("ingest", "query", "admin")
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def url(postgres_url: str) -> Iterator[str]:
    """A database with the schema of this release."""
    with database_on(postgres_url) as found:
        with closing(Database(found, application="test", limits=MIGRATION_LIMITS)) as db:
            migrate(db)
        yield found


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("revision", ["0008", "9999", None])
def test_a_service_refuses_another_schema_in_one_line(
    url: str, open_folder: Path, service: str, revision: str | None
) -> None:
    """An older one, one that it does not know, and none at all."""
    with psycopg.connect(plain_url(url), autocommit=True) as connection:
        if revision is None:
            connection.execute("DROP TABLE alembic_version")
        else:
            connection.execute("UPDATE alembic_version SET version_num = %s", (revision,))
    with (
        pytest.raises(AssertionError, match="schema"),
        running_service(service, open_folder, {"FOOTFALL_DATABASE_URL": url}),
    ):
        pass


@pytest.mark.parametrize("service", SERVICES)
def test_health_is_serving_only_while_the_database_answers(
    url: str, postgres_url: str, open_folder: Path, service: str
) -> None:
    """Under the service's own name; the process itself stays healthy."""
    name = f"footfall.{service}.v1.{service.capitalize()}Service"
    database = sa.make_url(url).database
    with (
        running_service(service, open_folder, {"FOOTFALL_DATABASE_URL": url}) as running,
        grpc.insecure_channel(running.address) as channel,
        psycopg.connect(plain_url(postgres_url), autocommit=True) as server,
    ):
        health = health_pb2_grpc.HealthStub(channel)

        def is_state(of: str, state: int) -> bool:
            return bool(health.Check(health_pb2.HealthCheckRequest(service=of)).status == state)

        eventually(lambda: is_state(name, SERVING))
        server.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false")
        server.execute("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s", (database,))
        eventually(lambda: is_state(name, NOT_SERVING))
        assert is_state("", SERVING)
        server.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS true")
        eventually(lambda: is_state(name, SERVING))


def test_the_known_revisions_are_those_of_the_migrations() -> None:
    """The last is the one that this release needs."""
    folder = Path(__file__).parents[2] / "common" / "migrations" / "versions"
    lines = [line for file in folder.glob("0*.py") for line in file.read_text().splitlines()]
    declared = [line for line in lines if line.startswith("revision")]
    assert known_revisions() == sorted(line.split('"')[1] for line in declared)
