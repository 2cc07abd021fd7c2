"""Workers, compactors and readers at once: nobody sees a number that is not one, and all end in the recount."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from threading import Event

from footfall.query.v1 import query_pb2
from hypothesis import given
from hypothesis import strategies as st

from admin_svc.counting import compact
from common.db import Database, DatabaseFault
from tests.property import examples
from tests.property.driver import PlayedSite
from tests.property.streams import Send, Stream, histories, spans, streams, whole
from tests.support.footfall_site import time_range
from tests.support.hands import LATER, Hands


@given(data=st.data(), stream=streams(most=40), limit=st.sampled_from((1, 3, 10)))
@examples(0.04)
def test_workers_and_compactions_at_once_end_in_the_recount(
    hands: Hands, data: st.DataObject, stream: Stream, limit: int
) -> None:
    """Three workers and two compactors on a backlog of one visitor in many partitions, for every batch came when there
    were another number of them. A dashboard read meanwhile says of every event that it is aggregated or pending, and
    its hours and its days add up to its overview."""
    stream = replace(stream, events=tuple(replace(event, visitor_id="ann") for event in stream.events))
    site = PlayedSite(hands, stream)
    history = data.draw(histories([stream], asks=0), label="history")
    for number, step in enumerate(step for step in history if isinstance(step, Send)):
        site.change_partitions(1 + number * 5 % 64)
        site.send(replace(step, key=-1))
    span = data.draw(spans(stream), label="span")
    db = Database(hands.suite.database_url, application="property tests")
    aggregated = Event()

    def work() -> None:
        with db.connection() as connection:
            while site.pending_events(connection):
                try:
                    chunk = hands.aggregator.aggregate(connection, site.site_id, LATER, limit)
                except DatabaseFault as fault:
                    assert "deadlock" in str(fault)  # noqa: PT017  # two workers met: one of them tries again
                else:
                    assert chunk.done.failed == 0

    def compacting() -> None:
        with db.connection() as connection:
            while not aggregated.is_set() or site.site_id in compact.sites_with_deltas(connection, LATER):
                compact.compact(connection, site.site_id, LATER, limit)

    with ThreadPoolExecutor(5) as threads:
        workers: list[Future[None]] = [threads.submit(work) for _ in range(3)]
        compactors: list[Future[None]] = [threads.submit(compacting) for _ in range(2)]
        try:
            while not all(worker.done() for worker in workers):
                check_a_moment(site)
        finally:
            aggregated.set()
        while not all(compactor.done() for compactor in compactors):
            check_a_moment(site)
    db.close()
    for one in (*workers, *compactors):
        one.result()
    assert not site.pending()
    site.check([span])


def check_a_moment(site: PlayedSite) -> None:
    """What one snapshot says is of one instant."""
    start, end = whole(site.stream)
    for interval in (query_pb2.INTERVAL_HOUR, query_pb2.INTERVAL_DAY):
        request = query_pb2.GetDashboardRequest(
            site=site.site.slug, range=time_range(start, end), interval=interval, time_zone="Asia/Kathmandu"
        )
        told = site.site.query.GetDashboard(request, metadata=site.site.as_admin).dashboard
        assert told.metrics.events + told.metadata.pending_events == len(site.accepted)
        for name in ("events", "pageviews", "sessions", "new_visitors"):
            assert getattr(told.metrics, name) == sum(getattr(bucket.metrics, name) for bucket in told.buckets), name
