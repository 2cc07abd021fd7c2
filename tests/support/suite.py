"""What a test is given of a running suite, and databases for tests."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import psycopg
import sqlalchemy as sa
from footfall.admin.v1 import admin_pb2_grpc
from footfall.ingest.v1 import ingest_pb2_grpc
from footfall.query.v1 import query_pb2_grpc

from cli.connection import Connection
from common.db import plain_url


@contextmanager
def database_on(server_url: str) -> Iterator[str]:
    """The URL of a new database on the server; it is dropped afterwards."""
    name = f"footfall_test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(plain_url(server_url), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        try:
            yield sa.make_url(server_url).set(database=name).render_as_string(hide_password=False)
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@dataclass
class Suite:
    """Addresses, keys and stubs of the three running services."""

    connection: Connection
    data_dir: Path
    database_url: str
    _channels: dict[str, grpc.Channel] = field(default_factory=dict)

    @property
    def ingest(self) -> str:
        return self.connection.ingest

    @property
    def query(self) -> str:
        return self.connection.query

    @property
    def admin(self) -> str:
        return self.connection.admin

    @property
    def admin_key(self) -> str:
        return self.connection.admin_key

    def ingest_stub(self) -> ingest_pb2_grpc.IngestServiceStub:
        return ingest_pb2_grpc.IngestServiceStub(self._channel(self.ingest))

    def query_stub(self) -> query_pb2_grpc.QueryServiceStub:
        return query_pb2_grpc.QueryServiceStub(self._channel(self.query))

    def admin_stub(self) -> admin_pb2_grpc.AdminServiceStub:
        return admin_pb2_grpc.AdminServiceStub(self._channel(self.admin))

    def close(self) -> None:
        for channel in self._channels.values():
            channel.close()

    def _channel(self, address: str) -> grpc.Channel:
        if address not in self._channels:
            self._channels[address] = grpc.insecure_channel(address)
        return self._channels[address]
