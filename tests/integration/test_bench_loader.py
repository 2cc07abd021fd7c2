"""The benchmarks' loader makes what the product makes of the same events."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
from footfall.ingest.v1 import ingest_pb2
from footfall.type.v1 import event_pb2
from google.protobuf.json_format import Parse

duckdb = pytest.importorskip("duckdb", reason="the loader needs the bench extra")

from bench.aggregated_dataset import derive  # noqa: E402
from bench.dataset import START, Shape, generate  # noqa: E402  # after what this file may be skipped for
from bench.loader import load, reserve_dedupe_keys, without_indexes  # noqa: E402
from common.db import plain_url  # noqa: E402
from tests.oracle.raw_events import CONTEXT_FIELDS, DAY, DIMENSIONS, HOUR, MINUTE  # noqa: E402
from tests.oracle.tables import micros, stored_tables  # noqa: E402
from tests.support.footfall_site import FootfallSite  # noqa: E402
from tests.support.site_rows import site_id_of  # noqa: E402
from tests.support.suite import Suite  # noqa: E402
from tests.support.upkeep import compact  # noqa: E402

SHAPE = Shape(20_000, pages=200, referrers=50, countries=30, days=3)
BEGIN, END = micros(START), micros(SHAPE.end)
SPANS = [(BEGIN, END), (BEGIN + 31 * MINUTE + 1, END - 5 * HOUR - 7), (BEGIN + 7 * HOUR, BEGIN + DAY + 2 * HOUR)]
"""Whole days, odd ends, whole hours."""

# What the product's own path has compacted, and what it has not.
_SHARDS = "SELECT delta_no > 0, interval, count(*) FROM rollup_shards WHERE site_id = %s GROUP BY 1, 2 ORDER BY 1, 2"

# What the visitors' first and last events say.
_TOUCHES = "SELECT visitor_id, last_event_id, first_touch, last_touch FROM visitors WHERE site_id = %s ORDER BY 1"


class Twins(NamedTuple):
    """One set of events twice: put there by the loader, and sent, aggregated and compacted."""

    loaded: FootfallSite
    sent: FootfallSite
    site_ids: tuple[int, int]
    connection: psycopg.Connection[Any]


def requests_of(file: Path) -> list[ingest_pb2.IngestBatchRequest]:
    """The events of the file in batches, in no order."""
    names = ("visitor_id", "session_id", "name", "path", "title", "referrer")
    with duckdb.connect(file, read_only=True) as source:
        columns = ["event_id::VARCHAR", "type", "epoch_us(occurred_at)", "properties", *names, "source"]
        rows = source.execute(f"SELECT {', '.join([*columns, *CONTEXT_FIELDS])} FROM events").fetchall()
    random.Random(1).shuffle(rows)
    requests = []
    for start in range(0, len(rows), 500):
        request = ingest_pb2.IngestBatchRequest()
        for event_id, kind, at, properties, *texts in rows[start : start + 500]:
            own = dict(zip(names, texts[: len(names)], strict=True))
            context = dict(zip(("source", *CONTEXT_FIELDS), texts[len(names) :], strict=True))
            event = request.events.add(event_id=event_id, type=kind, context=event_pb2.Context(**context), **own)
            event.occurred_at.FromMicroseconds(at)
            if properties:
                Parse(properties, event.properties)
        requests.append(request)
    return requests


@pytest.fixture(scope="module")
def twins(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    """Both sites; nothing is pending, and there is no delta."""
    file = tmp_path_factory.mktemp("dataset") / "events.duckdb"
    generate(file, SHAPE)
    derive(file, session_timeout_us=30 * MINUTE)
    loaded, sent = FootfallSite(suite, "loaded"), FootfallSite(suite, "sent")
    with psycopg.connect(plain_url(suite.database_url), autocommit=True) as connection:
        site_ids = site_id_of(connection, loaded), site_id_of(connection, sent)
        load(file, plain_url(suite.database_url), site_ids[0])
        for request in requests_of(file):
            assert sent.send(request).accepted == len(request.events)
        sent.aggregate()
        compact(sent)
        yield Twins(loaded, sent, site_ids, connection)


def test_tables_are_equal(twins: Twins) -> None:
    """Visitors (but for their numbers), sessions and rollups are what the product makes, and as many rows."""
    loaded, sent = (stored_tables(twins.connection, site_id) for site_id in twins.site_ids)
    assert len(sent.visitors) == SHAPE.visitors
    assert loaded.visitors == sent.visitors
    assert loaded.sessions == sent.sessions
    assert loaded.hours == sent.hours
    assert loaded.days == sent.days
    for query in (_SHARDS, _TOUCHES):
        of_loaded, of_sent = (twins.connection.execute(query, (site_id,)).fetchall() for site_id in twins.site_ids)
        assert of_loaded == of_sent


@pytest.mark.parametrize("span", SPANS)
def test_answers_are_equal(twins: Twins, span: tuple[int, int]) -> None:
    """Every report and list answers the same of both."""

    def answers(site: FootfallSite) -> Iterator[object]:
        yield site.overview(*span)
        yield from (site.timeseries(*span, length) for length in (HOUR, DAY))
        for dimension in DIMENSIONS:
            yield from (site.top(dimension, *span, order_by=order) for order in ("events", "visitors", "sessions"))
        yield site.breakdown("signup", "plan", *span)
        yield sorted(site.session_rows(span, page_size=1_000))
        yield sorted(site.events(span, page_size=1_000), key=lambda event: event.order)

    for loaded, sent in zip(answers(twins.loaded), answers(twins.sent), strict=True):
        assert loaded == sent


def test_loaded_site_goes_on(twins: Twins, suite: Suite) -> None:
    """A loaded site is a site like any other: its events are duplicates, new ones are aggregated, indexes are back."""
    indexes = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1"
    before = twins.connection.execute(indexes).fetchall()
    with without_indexes(plain_url(suite.database_url)):
        assert len(twins.connection.execute(indexes).fetchall()) < len(before)
        reserve_dedupe_keys(plain_url(suite.database_url), twins.site_ids[0])
    assert twins.connection.execute(indexes).fetchall() == before
    known = twins.loaded.events((BEGIN, BEGIN + HOUR))[0]
    event = pageview(known.event_id, known.visitor_id, known.occurred_at)
    assert twins.loaded.send(ingest_pb2.IngestBatchRequest(events=[event])).duplicate == 1
    new = pageview("", "somebody new", known.occurred_at)
    assert twins.loaded.send(ingest_pb2.IngestBatchRequest(events=[new])).accepted == 1
    assert twins.loaded.aggregate() == 1
    metrics = twins.loaded.overview(BEGIN, END)
    assert (metrics.events, metrics.visitors) == (SHAPE.events + 1, SHAPE.visitors + 1)


def pageview(event_id: str, visitor_id: str, occurred_at: int) -> ingest_pb2.Event:
    """A pageview."""
    event = ingest_pb2.Event(
        event_id=event_id, visitor_id=visitor_id, type=event_pb2.EVENT_TYPE_PAGEVIEW, path="/articles/0001"
    )
    event.occurred_at.FromMicroseconds(occurred_at)
    return event
