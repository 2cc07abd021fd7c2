"""Several processes of one service behind one port."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import grpc
import psutil  # type: ignore[import-untyped]  # carries no type information
import pytest
from footfall.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from footfall.type.v1 import event_pb2

from tests.support.footfall_site import FootfallSite
from tests.support.processes import Running, eventually, is_alive, running_service

if TYPE_CHECKING:
    from tests.support.suite import Suite

WORKERS = 2


@pytest.fixture
def ingest(suite: "Suite") -> Iterator[Running]:
    """Ingest in two workers."""
    environment = {"FOOTFALL_DATABASE_URL": suite.database_url, "FOOTFALL_WORKERS": str(WORKERS)}
    with running_service("ingest", suite.data_dir, environment) as running:
        yield running


def workers(running: Running) -> list[int]:
    """The living workers' ids."""
    return [child.pid for child in psutil.Process(running.process.pid).children() if is_alive(child.pid)]


def send(address: str, site: FootfallSite, event_id: str) -> ingest_pb2.IngestBatchResponse:
    """One event over a connection of its own, which the system gives to any of the workers."""
    event = ingest_pb2.Event(type=event_pb2.EVENT_TYPE_PAGEVIEW, visitor_id="v", event_id=event_id)
    # gRPC would share one connection between channels of one address.
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = ingest_pb2_grpc.IngestServiceStub(channel)
        return stub.IngestBatch(
            ingest_pb2.IngestBatchRequest(events=[event]),
            metadata=site.as_sender,
            timeout=20,
            wait_for_ready=True,
        )


def test_workers_share_a_port_and_one_that_dies_is_replaced(ingest: Running, suite: "Suite") -> None:
    """Whichever of them takes a call, an event counts once; a killed worker's calls go to the others."""
    site = FootfallSite(suite, "workers")
    assert len(workers(ingest)) == WORKERS
    for number in range(20):
        assert send(ingest.address, site, str(number)).accepted == 1
        assert send(ingest.address, site, str(number)).duplicate == 1
    victim, other = workers(ingest)
    psutil.Process(victim).kill()
    eventually(lambda: not is_alive(victim))
    for number in range(20, 30):
        assert send(ingest.address, site, str(number)).accepted == 1
    replaced = eventually(lambda: [pid for pid in workers(ingest) if pid not in (victim, other)])
    psutil.Process(other).kill()
    eventually(lambda: not is_alive(other))
    # Only the new one is left to answer.
    assert send(ingest.address, site, "last").accepted == 1
    assert is_alive(replaced[0])


def test_told_to_stop_every_worker_drains(ingest: Running) -> None:
    """The exit status is 0 and no worker is left."""
    pids = workers(ingest)
    ingest.process.send_signal(signal.SIGTERM)
    assert ingest.process.wait(20) == 0
    assert not any(map(is_alive, pids))
    assert ingest.log.read_text().count("Service drains") == WORKERS


def test_workers_do_not_outlive_a_killed_supervisor(ingest: Running) -> None:
    """However it dies; they drain as if told to."""
    pids = workers(ingest)
    ingest.process.kill()
    ingest.process.wait()
    eventually(lambda: not any(map(is_alive, pids)))
    assert ingest.log.read_text().count("Service drains") == WORKERS


def test_a_port_that_is_taken_is_not_shared(suite: "Suite", ingest: Running) -> None:
    """Not even with the workers of another: they would divide its calls."""
    environment = {"FOOTFALL_DATABASE_URL": suite.database_url, "FOOTFALL_LISTEN": ingest.address}
    second = subprocess.run(
        [sys.executable, "-m", "ingest_svc", "--workers", "2"],
        env=environment,
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert second.returncode != 0
    assert b"cannot be listened on" in second.stderr
