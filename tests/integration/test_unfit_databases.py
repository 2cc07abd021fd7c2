"""A database that Footfall cannot serve on is refused in one line, by whatever is started on it."""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from common.db import plain_url

ROOT = Path(__file__).parents[2]


@contextmanager
def database_in(server_url: str, encoding: str) -> Iterator[str]:
    """A new database with that encoding."""
    name = f"footfall_test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(plain_url(server_url), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
        try:
            yield sa.make_url(server_url).set(database=name).render_as_string(hide_password=False)
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def refused(*command: str, url: str) -> str:
    """What the command says. It ends with 1."""
    environment = {**os.environ, "FOOTFALL_DATABASE_URL": url, "FOOTFALL_LISTEN": "127.0.0.1:0"}
    tried = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180
    )
    assert tried.returncode == 1, tried.stderr
    return tried.stderr.strip()


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_an_encoding_other_than_utf8_is_refused(postgres_url: str, encoding: str) -> None:
    """By migrate and by each service, also by one that shall store an admin key."""
    with database_in(postgres_url, encoding) as url:
        commands = [("cli.main", "migrate"), *((f"{name}_svc",) for name in ("ingest", "query", "admin"))]
        for command in commands:
            said = refused(*command, url=url)
            assert "\n" not in said
            assert f"encoding is {encoding}" in said
            assert "UTF8" in said


PASSWORD = "s3cr3t:w/rd#"


@pytest.mark.parametrize("command", [("cli.main", "migrate"), ("cli.main", "verify", "--site", "x"), ("ingest_svc",)])
@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:{PASSWORD}@127.0.0.1:1/db",
        f"postgresql://u:x@{PASSWORD}@127.0.0.1:1/db",
        f"mysql://u:{PASSWORD}@127.0.0.1:1/db",
        f"host=127.0.0.1 port=1 pasword={PASSWORD}",
        f"host=127.0.0.1 password=a {PASSWORD} dbname=x",
        f"postgresql://u:{PASSWORD}%@127.0.0.1:1/db",
    ],
)
def test_a_url_that_cannot_be_read_is_one_line_without_its_password(
    command: tuple[str, ...], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And says how it is written."""
    monkeypatch.setenv("FOOTFALL_QUERY", "127.0.0.1:1")
    monkeypatch.setenv("FOOTFALL_ADMIN_KEY", "x")
    said = refused(*command, url=url)
    assert "\n" not in said
    assert "s3cr3t" not in said
    assert "%40" in said
