"""Debian's pgbouncer in front of a test's Postgres."""

import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from common.db import plain_url
from tests.support.processes import eventually

_MISSING = "nothing is tried behind pgbouncer without it: apt-get install pgbouncer"


def pgbouncer_or_skip() -> str:
    """The path of pgbouncer. Skips the test without one; under CI, fails it."""
    found = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        if os.environ.get("CI") or os.environ.get("FOOTFALL_CI"):
            pytest.fail(_MISSING)
        pytest.skip(_MISSING)
    return found


@contextmanager
def pgbouncer_for(url: str, folder: Path) -> Iterator[str]:
    """A URL of the same database through a pgbouncer in transaction mode, with less sessions than clients.

    It refuses startup options, as it does unless it is told otherwise.
    """
    program = pgbouncer_or_skip()
    target: dict[str, Any] = {**conninfo_to_dict(plain_url(url))}
    name = target.pop("dbname")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder.mkdir(mode=0o755)
    config = folder / "pgbouncer.ini"
    config.write_text(
        f"[databases]\n{name} = dbname={name} {make_conninfo(**target)}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        "auth_type = any\npool_mode = transaction\ndefault_pool_size = 6\n"
    )
    command = [program, "--quiet", str(config)]
    if os.geteuid() == 0:
        # It refuses to run as root. The folder of Postgres' socket may be open to the user of Postgres only.
        host = str(target.get("host", ""))
        user = pwd.getpwuid(os.stat(host).st_uid) if host.startswith("/") else pwd.getpwnam("nobody")
        command[1:1] = ["-u", user.pw_name]
    through = make_conninfo(host="127.0.0.1", port=port, dbname=name, user=str(target.get("user", "")))
    with (folder / "pgbouncer.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        eventually(lambda: _answers(through) or process.poll() is not None)
        assert process.poll() is None, (folder / "pgbouncer.log").read_text()
        yield through
    finally:
        process.terminate()
        process.wait(20)


def _answers(through: str) -> bool:
    try:
        with psycopg.connect(through, connect_timeout=2) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False
