"""A service that is told to stop, or whose parent is gone, ends by itself and without complaint."""

import signal
import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import running_service

if TYPE_CHECKING:
    from tests.support.suite import Suite


def close_input(process: "subprocess.Popen[bytes]") -> None:
    """What a process notices of its parent's end."""
    assert process.stdin is not None
    process.stdin.close()


WAYS: dict[str, Callable[["subprocess.Popen[bytes]"], None]] = {
    "SIGTERM": lambda process: process.send_signal(signal.SIGTERM),
    "SIGINT": lambda process: process.send_signal(signal.SIGINT),
    "its parent's end": close_input,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("service", ["ingest", "query", "admin"])
def test_a_service_ends_well_by(suite: "Suite", service: str, way: str) -> None:
    """Its exit status is 0 and the last thing in its log is that it drains."""
    with running_service(service, suite.data_dir, {"FOOTFALL_DATABASE_URL": suite.database_url}) as running:
        WAYS[way](running.process)
        assert running.process.wait(20) == 0
        assert running.log.read_text().splitlines()[-1].endswith("Service drains")
