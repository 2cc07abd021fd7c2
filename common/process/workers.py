"""Runs a service in several processes that share its port, because the interpreter's lock limits a single one.

The processes are also replaced one after the other, by new code, without a failed call: on SIGHUP.
"""

import argparse
import asyncio
import logging
import os
import socket
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from common.clock import system_clock
from common.process import signals
from common.process.server import announce
from common.process.tls import credentials_of
from common.process.variables import unknown_variables
from common.process.worker import POLL_SECONDS, Worker
from common.settings import Settings
from common.telemetry import tracing
from common.telemetry.exposition import start_metrics
from common.telemetry.logs import configure_logging
from common.telemetry.workers import WorkersMetrics

_log = logging.getLogger(__name__)


def run(package: str, port: int, main: Callable[[Settings], Coroutine[Any, Any, None]]) -> None:
    """Runs `python -m <package>`: `main` in this process, or with `--workers N` (FOOTFALL_WORKERS) in N processes.

    Raises SystemExit with a line that says why, for settings that are not valid and for an address that is taken.
    """
    # First, so that a signal that comes during the start is handled too.
    signals.watch()
    settings = Settings.from_environment()
    parser = argparse.ArgumentParser(prog=f"python -m {package}")
    parser.add_argument("--workers", type=int, help="processes that share the port, replaced one by one on SIGHUP")
    workers = parser.parse_args().workers
    if workers is None:
        workers = settings.workers
    elif workers < 1:
        parser.error("--workers must be at least 1")
    configure_logging(settings.log_level, settings.log_format)
    for line in unknown_variables(os.environ):
        _log.warning("%s", line)
    if workers == 0:
        send_last_traces = tracing.switch_on(f"footfall-{package.removesuffix('_svc')}") if settings.traces else None
        asyncio.run(main(settings))
        if send_last_traces:
            send_last_traces()
    else:
        # Here too, because a worker that cannot start is started again and again.
        credentials_of(settings, system_clock)
        asyncio.run(_supervise(package, settings.listen or f"127.0.0.1:{port}", settings, workers))


def held_port(address: str, *, shared: bool = False) -> socket.socket:
    """A socket that is bound to the address, allows sharing and never listens. Raises OSError if the address is taken.

    It is held as long as processes of the service run, so that no other program takes the port while one is started
    again. `shared`: another process of ours holds the address already.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family, kind, protocol, _, target = socket.getaddrinfo(
        host or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    # Tried without sharing first: a port that another program shares among its processes would be shared here too.
    if not shared:
        with socket.socket(family, kind, protocol) as alone:
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind(target)
    held = socket.socket(family, kind, protocol)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(target)
    except OSError:
        held.close()
        raise
    return held


async def _supervise(package: str, address: str, settings: Settings, count: int) -> None:
    stop, hangup = signals.told(stop_with_parent=settings.stop_with_parent)
    with ExitStack() as stack:
        try:
            held = stack.enter_context(held_port(address, shared=settings.shared_port))
        except (OSError, ValueError, OverflowError) as error:
            raise SystemExit(f"{address} cannot be listened on: {error}") from None
        address = f"{address.rpartition(':')[0]}:{held.getsockname()[1]}"
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="footfall-workers-")))
        workers = [Worker(package, address, folder / str(number), settings) for number in range(count)]
        joined = WorkersMetrics(lambda: {number: worker.metrics_address for number, worker in enumerate(workers)})
        start_metrics(settings, joined.registry())
        tasks = [asyncio.create_task(worker.keep_alive()) for worker in workers]
        tasks.append(asyncio.create_task(_announce_when_all_answer(workers, address, settings)))
        tasks.append(asyncio.create_task(_replace_on_hangup(package, workers, hangup)))
        await stop.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(worker.stop() for worker in workers))
        _log.info("all workers of %s have ended", package)


async def _announce_when_all_answer(workers: list[Worker], address: str, settings: Settings) -> None:
    while not all(worker.answers for worker in workers):
        await asyncio.sleep(POLL_SECONDS)
    announce(settings, address)
    _log.info("%d workers serve on %s", len(workers), address)


async def _replace_on_hangup(package: str, workers: list[Worker], hangup: asyncio.Event) -> None:
    """One after the other, so that at most one process more than usual runs. A SIGHUP meanwhile starts a new round."""
    while True:
        await hangup.wait()
        hangup.clear()
        _log.info("the workers of %s are replaced one after the other", package)
        for worker in workers:
            if not await worker.replace():
                _log.error("the workers of %s are not replaced further; send SIGHUP again after mending it", package)
                break
        else:
            _log.info("all workers of %s have been replaced", package)
