"""A hot standby of a test's Postgres."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # carries no type information
import psycopg
import sqlalchemy as sa

from common.db import plain_url
from tests.support.processes import eventually


@contextmanager
def standby_of(server_url: str, folder: Path) -> Iterator[str]:
    """The URL, at a standby made by pg_basebackup, of the database that `server_url` names. The server must be one of
    this machine, reached by a socket."""
    host = str(sa.make_url(server_url).query["host"])
    with psycopg.connect(plain_url(server_url), autocommit=True) as connection:
        [(pid,)] = connection.execute("SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)::int")
    server = psutil.Process(pid)
    programs, owner = Path(server.exe()).parent, server.uids().real
    data = folder / "data"
    data.mkdir(parents=True, mode=0o700)
    for path in (folder, data):
        shutil.chown(path, owner)

    def run(program: str, *arguments: str) -> None:
        subprocess.run(
            [programs / program, *arguments], check=True, user=owner, cwd=folder, stdout=subprocess.DEVNULL, timeout=120
        )

    run("pg_basebackup", f"--host={host}", "--username=postgres", f"--pgdata={data}", "--write-recovery-conf",
        "--checkpoint=fast", "--no-sync")  # fmt: skip
    control = (f"--pgdata={data}", f"--log={folder}/log", "--silent")
    run("pg_ctl", *control, f"--options=-k {folder} -c listen_addresses='' -c hot_standby=on", "start")
    try:
        yield sa.make_url(server_url).set(query={"host": str(folder)}).render_as_string(hide_password=False)
    finally:
        run("pg_ctl", *control, "--mode=immediate", "stop")


def caught_up(server_url: str, standby_url: str) -> None:
    """Waits until the standby has everything that the server has written."""
    with (
        psycopg.connect(plain_url(server_url), autocommit=True) as server,
        psycopg.connect(plain_url(standby_url), autocommit=True) as standby,
    ):
        written = server.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
        replayed = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
        eventually(lambda: standby.execute(replayed, written).fetchone() == (True,))
