"""On SIGHUP the workers of a service are replaced one after the other, and no call fails meanwhile."""

import signal
from functools import partial
from typing import TYPE_CHECKING

import grpc
import psutil  # type: ignore[import-untyped]  # carries no type information
import pytest
from footfall.ingest.v1 import ingest_pb2_grpc

from tests.support.callers import OWN_CONNECTION, callers
from tests.support.footfall_site import FootfallSite
from tests.support.processes import Running, eventually, is_alive, running_service
from tests.support.refusals import batch, event

if TYPE_CHECKING:
    from tests.support.suite import Suite

QUICK = {"FOOTFALL_CONNECTION_AGE_SECONDS": "2"}


def workers(running: Running) -> set[int]:
    """The living workers' ids."""
    return {child.pid for child in psutil.Process(running.process.pid).children() if is_alive(child.pid)}


def rounds_are(running: Running, number: int) -> bool:
    """Whether all workers have been replaced so many times."""
    return running.log.read_text().count("have been replaced") == number


@pytest.mark.parametrize(("service", "count", "times"), [("ingest", 1, 3), ("ingest", 2, 2), ("query", 1, 2)])
def test_no_call_fails_while_the_workers_are_replaced(suite: "Suite", service: str, count: int, times: int) -> None:
    """On kept connections and on new ones, in several rounds; every acknowledged event is stored."""
    site = FootfallSite(suite, "handover")
    environment = {"FOOTFALL_DATABASE_URL": suite.database_url, "FOOTFALL_WORKERS": str(count), **QUICK}
    with running_service(service, suite.data_dir, environment) as running:
        with callers(running.address, site, query=service == "query") as counts:
            for number in range(times):
                before, calls = workers(running), dict(counts)
                running.process.send_signal(signal.SIGHUP)
                eventually(partial(rounds_are, running, number + 1), 120)
                assert not workers(running) & before
                assert len(workers(running)) == count
                assert all(counts[kind] > calls[kind] for kind in counts)
        assert "led to another worker" not in running.log.read_text()
    if service == "ingest":
        assert len(site.events()) == counts["kept"] + counts["opened"]


def test_a_stop_during_a_handover_ends_every_process(suite: "Suite") -> None:
    """The one that leaves too, though its connections would last a minute."""
    environment = {"FOOTFALL_DATABASE_URL": suite.database_url, "FOOTFALL_WORKERS": "1"}
    site = FootfallSite(suite, "handover-stop")
    with running_service("ingest", suite.data_dir, environment) as running:
        with grpc.insecure_channel(running.address, options=OWN_CONNECTION) as channel:
            stub = ingest_pb2_grpc.IngestServiceStub(channel)
            assert stub.IngestBatch(batch(event(event_id="a")), metadata=site.as_sender).accepted == 1
            running.process.send_signal(signal.SIGHUP)
            eventually(lambda: "hands its port over" in running.log.read_text(), 60)
            pids = workers(running)
            assert len(pids) == 2
            running.process.terminate()
            assert running.process.wait(20) == 0
        assert not any(map(is_alive, pids))
