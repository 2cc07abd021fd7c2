"""Wherever a process dies, nothing happened or everything did, and going on ends in the same numbers."""

from contextlib import closing, suppress
from functools import partial
from typing import Any

from footfall.ingest.v1 import ingest_pb2
from hypothesis import given
from hypothesis import strategies as st

from admin_svc.chunk import Chunk
from admin_svc.counting import compact
from admin_svc.maintenance import rebuild
from common.clock import system_clock
from common.db import DatabaseFault
from common.sites import find_site
from ingest_svc.database_commit import DatabaseCommit
from ingest_svc.event_rows import to_rows
from ingest_svc.store_events import Incoming
from tests.property import examples
from tests.property.driver import PlayedSite, play
from tests.property.requests import request_of
from tests.property.streams import Send, Stream, histories, limits, spans, streams
from tests.support.cuts import CutDatabase, Scissors, cut_everywhere
from tests.support.hands import LATER, Hands

few = streams(most=7)


@given(data=st.data(), stream=few)
@examples(0.06)
def test_a_worker_cut_after_any_statement_leaves_nothing_behind(
    hands: Hands, data: st.DataObject, stream: Stream
) -> None:
    """Until its COMMIT nothing of a chunk is there, all of it is still pending, and the next try aggregates it once."""
    [site] = play(hands, [stream], data.draw(histories([stream], asks=0), label="history"))
    while site.pending():
        aggregate = partial(_aggregate, site, data.draw(limits, label="limit"))
        cuts = cut_everywhere(hands.suite.database_url, aggregate, lambda: (site.tables(), site.pending()))
        assert cuts >= 8
        site.check_tables()
    site.check([data.draw(spans(stream), label="span")])


@given(data=st.data(), stream=few)
@examples(0.06)
def test_a_compaction_cut_after_any_statement_leaves_nothing_behind(
    hands: Hands, data: st.DataObject, stream: Stream
) -> None:
    """Until its COMMIT every delta is there and every answer as before; the next try takes it once."""
    [site] = play(hands, [stream], data.draw(histories([stream], asks=0), label="history"))
    site.drain()
    before = site.tables()
    for _ in range(3):
        chunk = partial(_compact, site, data.draw(limits, label="limit"))
        assert cut_everywhere(hands.suite.database_url, chunk, lambda: _rows(site, "rollup_shards")) >= 1
        assert site.tables() == before
    site.check([data.draw(spans(stream), label="span")])


@given(data=st.data(), stream=few)
@examples(0.04)
def test_a_rebuild_cut_after_any_statement_goes_on_where_it_was(
    hands: Hands, data: st.DataObject, stream: Stream
) -> None:
    """A chunk of queueing or clearing leaves nothing behind until its COMMIT; one of aggregation, nothing half done.
    The next chunk goes on, and everything is aggregated once."""
    [site] = play(hands, [stream], data.draw(histories([stream], asks=0), label="history"))
    limit = data.draw(st.sampled_from((60, 1_000)), label="limit")
    chunks: list[Chunk[rebuild.Rebuilt]] = []

    def rebuild_chunk(scissors: Scissors) -> None:
        position = chunks[-1].position if chunks else ()
        with scissors.connection() as connection:
            chunks.append(rebuild.rebuild(connection, hands.aggregator, site.site_id, LATER, limit, position))

    derived = ("rebuilds", "pending_batches", "visitors", "sessions", "rollup_shards")
    while not chunks or site.clearing():
        cuts = cut_everywhere(
            hands.suite.database_url, rebuild_chunk, lambda: [_rows(site, table) for table in derived]
        )
        assert cuts >= 4
    statements = 0
    while chunks[-1].has_more:
        statements += 1
        with suppress(*DatabaseFault):
            rebuild_chunk(Scissors(hands.suite.database_url, statements))
        site.check_tables()
    assert _rows(site, "rebuilds")[0][2] == 4
    site.drain()
    site.check([data.draw(spans(stream), label="span")])


@given(data=st.data(), stream=few, others=few)
@examples(0.04)
def test_an_ingest_transaction_cut_after_any_statement_stores_nothing(
    hands: Hands, data: st.DataObject, stream: Stream, others: Stream
) -> None:
    """Two calls of two sites in one group: until COMMIT neither is stored and no key is reserved, so that sending again
    is no duplicate; after a COMMIT whose answer was lost, all of it is."""
    sites = [PlayedSite(hands, stream), PlayedSite(hands, others)]
    history = data.draw(histories([site.stream for site in sites], asks=0), label="history")
    sends = [step for step in history if isinstance(step, Send)]
    for step in sends[:-2]:
        sites[step.site].send(step)
    group = sends[-2:]
    calls = [_incoming(sites[step.site], step) for step in group]
    told: list[list[int]] = []

    def commit(scissors: Scissors) -> None:
        db = CutDatabase(hands.suite.database_url, scissors)
        with closing(DatabaseCommit(db, system_clock)) as group_commit:
            told.append(group_commit(calls))

    ingested = ("events", "ingest_dedupes", "pending_batches")
    state = partial(_rows_of, sites, ingested)
    assert cut_everywhere(hands.suite.database_url, commit, state) >= 1
    expected = []
    for step in group:
        new = {event.event_id for event in step.events} - {e.event_id for e in sites[step.site].accepted.values()}
        expected.append(len(new))
        sites[step.site].accepted |= PlayedSite.by_id(step.events)
    assert told == [expected]
    for step in group:
        sites[step.site].send(step)
    for site in sites:
        site.drain()
        site.check()


def _aggregate(site: PlayedSite, limit: int, scissors: Scissors) -> None:
    with scissors.connection() as connection:
        chunk = site.hands.aggregator.aggregate(connection, site.site_id, LATER, limit)
        assert chunk.done.failed == 0


def _compact(site: PlayedSite, limit: int, scissors: Scissors) -> None:
    with scissors.connection() as connection:
        compact.compact(connection, site.site_id, LATER, limit)


def _incoming(site: PlayedSite, step: Send) -> Incoming:
    now = system_clock()
    known = find_site(site.hands.connection, site.site.slug)
    request: ingest_pb2.IngestBatchRequest = request_of(step.events, with_defaults=step.with_defaults)
    rows, errors = to_rows(request, known, now)
    assert not errors
    return Incoming(known, rows, now)


def _rows_of(sites: list[PlayedSite], tables: tuple[str, ...]) -> list[Any]:
    return [_rows(site, table) for site in sites for table in tables]


def _rows(site: PlayedSite, table: str) -> list[Any]:
    found = site.hands.connection.execute(f"SELECT * FROM {table} WHERE site_id = %s", (site.site_id,))
    return sorted(found.fetchall(), key=repr)
