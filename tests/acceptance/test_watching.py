"""`footfall up` tells where its metrics are."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.metrics import metrics_addresses, scraped
from tests.support.processes import eventually, restarted_pid, service_pids

if TYPE_CHECKING:
    from tests.support.suite import Suite


def test_up_prints_where_its_metrics_are_and_keeps_them_there(suite: "Suite", open_folder: Path) -> None:
    """One address for each service, in the form of Prometheus too; a service that is started again keeps its own."""
    data_dir = open_folder / "watched"
    environment = {**os.environ, "FOOTFALL_DATABASE_URL": suite.database_url, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-c", "from cli.main import main; main()", "up", "--ports", "0,0,0"]
    with subprocess.Popen([*command, "--data-dir", str(data_dir)], env=environment, stdout=subprocess.PIPE) as up:
        try:
            assert up.stdout is not None
            printed = next(line for line in map(bytes.decode, up.stdout) if line.startswith("metrics"))
            addresses = metrics_addresses(data_dir)
            assert list(addresses) == ["ingest", "query", "admin"]
            for address in addresses.values():
                assert f"http://{address}/metrics" in printed
                assert "footfall_rpc_calls" in scraped(address)
            assert str(data_dir / "metrics.json") in printed
            before = service_pids(data_dir)["query"]
            os.kill(before, signal.SIGKILL)
            restarted_pid(data_dir, "query", before)
            assert "footfall_rpc_calls" in eventually(lambda: scraped(addresses["query"]))
        finally:
            up.terminate()
            up.wait(60)


@pytest.mark.parametrize("ports", ["1,2", "a,b,c", "70000,0,0", "50061,50061,0"])
def test_ports_for_metrics_that_cannot_be_are_refused(ports: str, tmp_path: Path) -> None:
    tried = subprocess.run(
        [sys.executable, "-c", "from cli.main import main; main()", "up", f"--metrics-ports={ports}"],
        capture_output=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "200"},
        text=True,
    )
    assert tried.returncode == 2
    assert "--metrics-ports takes three" in tried.stderr
