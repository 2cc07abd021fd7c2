"""Calls without a pause on a service, of clients as they come."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import grpc
from footfall.ingest.v1 import ingest_pb2_grpc
from footfall.query.v1 import query_pb2, query_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.footfall_site import FootfallSite, time_range
from tests.support.refusals import batch, event

SERVING = health_pb2.HealthCheckResponse.SERVING
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
"""gRPC would share one connection among the channels of a process."""
FAR = time_range(0, 4_000_000_000_000_000)


@contextmanager
def callers(address: str, site: FootfallSite, *, query: bool) -> Iterator[dict[str, int]]:
    """Calls without a pause: from three threads on connections that are kept, from one that opens one for each call,
    and from eight that keep the process busy.

    Yields how many calls there were. At the end raises the first call's error.
    """
    done = threading.Event()
    counts = {"kept": 0, "opened": 0}

    def call(channel: grpc.Channel) -> None:
        if query:
            request = query_pb2.GetOverviewRequest(site=site.slug, range=FAR)
            query_pb2_grpc.QueryServiceStub(channel).GetOverview(request, metadata=site.as_admin, timeout=20)
        else:
            sent = batch(event(event_id=uuid4().hex))
            answer = ingest_pb2_grpc.IngestServiceStub(channel).IngestBatch(sent, metadata=site.as_sender, timeout=20)
            assert answer.accepted == 1

    def keep() -> None:
        with grpc.insecure_channel(address, options=OWN_CONNECTION) as channel:
            while not done.is_set():
                call(channel)
                counts["kept"] += 1

    def open_anew() -> None:
        while not done.is_set():
            with grpc.insecure_channel(address, options=OWN_CONNECTION) as channel:
                call(channel)
                counts["opened"] += 1

    def keep_busy() -> None:
        with grpc.insecure_channel(address, options=OWN_CONNECTION) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            while not done.is_set():
                assert health.Check(health_pb2.HealthCheckRequest(), timeout=20).status == SERVING

    with ThreadPoolExecutor(12) as pool:
        running: list[Any] = [pool.submit(work) for work in (*[keep] * 3, open_anew, *[keep_busy] * 8)]
        try:
            yield counts
        finally:
            done.set()
        for one in running:
            one.result()
