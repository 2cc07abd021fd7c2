"""A Postgres server that is frozen, as by a hung disk or a paused virtual machine: it takes what is sent to it and
does not answer."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil  # type: ignore[import-untyped]  # carries no type information
import psycopg

from common.db import plain_url


@contextmanager
def frozen(server_url: str, *, backends_of: str = "") -> Iterator[None]:
    """Stops every process of the server while the block runs; with `backends_of` only the backends of that database."""
    with psycopg.connect(plain_url(server_url), autocommit=True) as connection:
        if backends_of:
            found = connection.execute("SELECT pid FROM pg_stat_activity WHERE datname = %s", (backends_of,))
            pids = [row[0] for row in found]
        else:
            [(first,)] = connection.execute("SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)::int")
            pids = [first]
    try:
        # The first process makes the others, so that none is missed after it has stopped.
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        if not backends_of:
            pids += [child.pid for child in psutil.Process(pids[0]).children()]
            for pid in pids[1:]:
                os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
