"""Two ingest processes and two aggregating ones on one database give the numbers that one of each would."""

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from footfall.admin.v1 import admin_pb2, admin_pb2_grpc
from footfall.ingest.v1 import ingest_pb2_grpc
from footfall.query.v1 import query_pb2
from google.protobuf import duration_pb2, field_mask_pb2

from cli.suite import running_suite
from tests.support.footfall_site import FootfallSite, time_range
from tests.support.processes import running_service
from tests.support.suite import Suite, database_on
from tests.support.traffic import WHOLE, Sending, assert_recounts, made_up, overlapping, send_all, until_counted


@dataclass
class Pair:
    """A running suite with a second ingest and a second admin process; all aggregate by themselves."""

    suite: Suite
    ingests: list[Any]
    admins: list[Any]


@pytest.fixture(scope="module")
def pair(postgres_url: str, open_folder: Path) -> Iterator[Pair]:
    with ExitStack() as stack:
        url = stack.enter_context(database_on(postgres_url))
        environment = {**os.environ, "FOOTFALL_DATABASE_URL": url}
        folder = open_folder / "pair"
        connection = stack.enter_context(running_suite(folder, (0, 0, 0), environment))
        suite = Suite(connection, folder, url)
        stack.callback(suite.close)
        second_ingest = stack.enter_context(running_service("ingest", folder, environment))
        second_admin = stack.enter_context(running_service("admin", folder, environment))
        ingest_channel = stack.enter_context(grpc.insecure_channel(second_ingest.address))
        admin_channel = stack.enter_context(grpc.insecure_channel(second_admin.address))
        yield Pair(
            suite,
            [suite.ingest_stub(), ingest_pb2_grpc.IngestServiceStub(ingest_channel)],
            [suite.admin_stub(), admin_pb2_grpc.AdminServiceStub(admin_channel)],
        )


class Aggregating(threading.Thread):
    """Calls AggregatePending of one process for some sites, over and over, beside the loops."""

    def __init__(self, admin: Any, sites: list[FootfallSite]) -> None:
        super().__init__()
        self._admin, self._sites = admin, sites
        self._stopping = threading.Event()
        self.failed = 0
        self.errors: list[grpc.StatusCode] = []

    def run(self) -> None:
        while not self._stopping.is_set():
            for site in self._sites:
                request = admin_pb2.AggregatePendingRequest(site=site.slug, limit=100)
                try:
                    page = self._admin.AggregatePending(request, metadata=site.as_admin, timeout=60)
                    self.failed += page.failed
                except grpc.RpcError as error:
                    self.errors.append(error.code())

    def finish(self) -> None:
        """Ends it; nothing may have failed but for a deadlock, which the caller is told to try again."""
        self._stopping.set()
        self.join()
        assert self.failed == 0
        assert set(self.errors) <= {grpc.StatusCode.UNAVAILABLE}


class Watching(threading.Thread):
    """Asks for a site's overview, over and over: what is counted and what is pending never gets less."""

    def __init__(self, site: FootfallSite) -> None:
        super().__init__()
        self._site = site
        self._stopping = threading.Event()
        self.known = [0]

    def run(self) -> None:
        request = query_pb2.GetOverviewRequest(site=self._site.slug, range=time_range(*WHOLE))
        while not self._stopping.is_set():
            report = self._site.query.GetOverview(request, metadata=self._site.as_admin)
            self.known.append(report.metrics.events + report.metadata.pending_events)

    def finish(self, total: int) -> None:
        self._stopping.set()
        self.join()
        assert self.known == sorted(self.known)
        assert self.known[-1] <= total


def test_the_same_events_sent_to_both_processes_at_once_are_counted_once(pair: Pair) -> None:
    """Several sites and partitions, overlapping shuffled batches, loops and calls aggregating all the while."""
    sites = {FootfallSite(pair.suite, "pair", rollup_shard_count=partitions): partitions for partitions in (1, 4, 16)}
    events = {site: made_up(partitions, visitors=40, events=700) for site, partitions in sites.items()}
    sendings = [
        Sending(ingest, site.write_key, batch)
        for site, partitions in sites.items()
        for batch in overlapping(events[site], partitions, times=3, size=100)
        for ingest in pair.ingests
    ]
    aggregating = [Aggregating(admin, list(sites)) for admin in pair.admins]
    watching = [Watching(site) for site in sites]
    for thread in (*aggregating, *watching):
        thread.start()
    total = send_all(sendings, threads=16)
    for site in sites:
        until_counted(site)
    for one in aggregating:
        one.finish()
    for other in watching:
        other.finish(700)
    assert total == {"accepted": 3 * 700, "duplicate": 3 * 700 * 5, "rejected": 0}
    for site in sites:
        assert_recounts(site, events[site])


def test_the_number_of_partitions_may_change_while_events_of_one_visitor_wait_in_several(pair: Pair) -> None:
    """Every key knows the number of partitions of when it was first used, so that old and new partitions fill side by
    side; few visitors, so that the workers meet on them."""
    site = FootfallSite(pair.suite, "partitions")
    events = made_up(7, visitors=5, events=800)
    batches = overlapping(events, 7, times=2, size=20)
    keys = []
    aggregating = [Aggregating(admin, [site]) for admin in pair.admins]
    total = {"accepted": 0, "duplicate": 0, "rejected": 0}
    for thread in aggregating:
        thread.start()
    for part, partitions in enumerate((1, 8, 3, 64)):
        keys.append(with_partitions(site, partitions))
        sendings = [
            Sending(pair.ingests[number % 2], keys[number % len(keys)], batch)
            for number, batch in enumerate(batches[part::4])
        ]
        for name, count in send_all(sendings).items():
            total[name] += count
    until_counted(site)
    for thread in aggregating:
        thread.finish()
    assert total == {"accepted": 800, "duplicate": 800, "rejected": 0}
    assert_recounts(site, events)


def with_partitions(site: FootfallSite, partitions: int) -> str:
    """Changes the site's number of partitions and makes a write key that no process has cached."""
    changed = admin_pb2.Site(slug=site.slug, settings=admin_pb2.SiteSettings(rollup_shard_count=partitions))
    mask = field_mask_pb2.FieldMask(paths=["settings.rollup_shard_count"])
    site.operator.UpdateSite(admin_pb2.UpdateSiteRequest(site=changed, update_mask=mask), metadata=site.as_admin)
    rotation = admin_pb2.RotateWriteKeyRequest(site=site.slug, grace_period=duration_pb2.Duration(seconds=3600))
    key: str = site.operator.RotateWriteKey(rotation, metadata=site.as_admin).write_key
    return key
