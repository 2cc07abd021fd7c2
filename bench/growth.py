"""What grows with a site: the latency of a dashboard, the rate of ingest, the bytes per event.

    python -m bench.growth [--scale 0.1] [--json FILE]

The dashboard is measured on three sites with 1 M, 3 M and 10 M events over the same hours and keys; more events are of
more visitors. Ingest is measured in turns on an empty database and on one with 20 M events and as many dedupe keys, on
the same server.
"""

import random
import statistics
from contextlib import ExitStack

import psycopg
import sqlalchemy as sa
from footfall.admin.v1 import admin_pb2

from bench.big_site import EVENTS, BigSite, load_sites, shape_at
from bench.command_line import main, say
from bench.dashboard import Client
from bench.disk import disk_figures
from bench.figures import Figure
from bench.ingest import CALLERS, requests_of
from bench.loader import reserve_dedupe_keys, settle, without_indexes
from bench.own_suite import Stage, open_stage
from bench.query import dashboard_seconds
from bench.senders import call_all
from cli.suite import migrate_schema
from common.event_columns import EVENT_COLUMNS

PART = "growth"
DASHBOARD_GROWTH = 1.5
INGEST_ON_MANY = 0.85

_SMALLER = {"one-tenth": EVENTS // 10, "three-tenths": EVENTS * 3 // 10}
_MANY_EVENTS = 2 * EVENTS
_FILLER = -2
"""A site that does not exist. Its events only fill the table."""
_ROUNDS = 4
_EVENTS_A_TURN = 50_000
_EVENTS_A_CALL = 50

_OTHER_COLUMNS = ", ".join(column for column in EVENT_COLUMNS if column != "site_id")
# Copies events of a site to fill the table up.
_FILL = f"""
INSERT INTO events (site_id, {_OTHER_COLUMNS}) SELECT %(filler)s, {_OTHER_COLUMNS} FROM events
WHERE site_id = %(site_id)s LIMIT %(missing)s
"""
_EMPTY = "TRUNCATE events, ingest_dedupes, pending_batches"


def measure(scale: float) -> list[Figure]:
    """Loads a site into a suite of its own and measures."""
    with open_stage() as stage:
        [big] = load_sites(stage, {"big": shape_at(scale)})
        return measure_beside(stage, big, scale)


def measure_beside(stage: Stage, big: BigSite, scale: float) -> list[Figure]:
    """The figures for a loaded site, which must be the only one with many events."""
    disk = disk_figures(stage, PART, big.shape.events)
    smaller = _fill(stage, big, scale)
    sites = [*smaller, big]
    latencies = []
    for site in sites:
        client = Client(stage.connection, site.slug, site.span)
        latencies.append(dashboard_seconds(client))
        client.close()
    say("growth: dashboards measured")
    many, empty = _ingest_by_turns(stage, big, round(_EVENTS_A_TURN * scale))
    ratio = statistics.median(one / other for one, other in zip(many, empty, strict=True))
    growth = latencies[-1] / latencies[0]
    return [
        Figure(PART, "dashboard, ten times the events", growth, "×", DASHBOARD_GROWTH, at_least=False),
        *(
            Figure(PART, f"  dashboard over {site.shape.events:,} events", latency * 1e3, "ms")
            for site, latency in zip(sites, latencies, strict=True)
        ),
        Figure(PART, "ingest on 20 M rows over ingest on an empty table", ratio, "×", INGEST_ON_MANY),
        Figure(PART, "  ingest on 20 M rows", statistics.median(many), "events/s"),
        Figure(PART, "  ingest on an empty table", statistics.median(empty), "events/s"),
        *disk,
    ]


def _fill(stage: Stage, big: BigSite, scale: float) -> list[BigSite]:
    """Loads the smaller sites, and fills `events` and `ingest_dedupes` up. Returns the smaller sites."""
    with without_indexes(stage.database_url, ("ingest_dedupes", "events")):
        smaller = load_sites(stage, {slug: shape_at(scale, events) for slug, events in _SMALLER.items()})
        loaded = big.shape.events + sum(site.shape.events for site in smaller)
        missing = max(0, round(_MANY_EVENTS * scale) - loaded)
        with stage.database() as connection:
            connection.execute(_FILL, {"filler": _FILLER, "site_id": big.site_id, "missing": missing})
        for site_id in (big.site_id, _FILLER, *(site.site_id for site in smaller)):
            reserve_dedupe_keys(stage.database_url, site_id)
    settle(stage.database_url, ("events", "ingest_dedupes"))
    say(f"growth: {loaded + missing:,} events and dedupe keys")
    return smaller


def _ingest_by_turns(stage: Stage, big: BigSite, events: int) -> tuple[list[float], list[float]]:
    """Events a second of each turn: into the full tables, and into empty ones."""
    rng = random.Random(1)
    many: list[float] = []
    empty: list[float] = []
    with ExitStack() as stack:
        empty_url, empty_key = _empty_database(stage)
        full_process, _ = stack.enter_context(stage.another("ingest"))
        empty_process, _ = stack.enter_context(stage.another("ingest", FOOTFALL_DATABASE_URL=empty_url))
        for turn in range(_ROUNDS):
            with psycopg.connect(empty_url, autocommit=True) as connection:
                connection.execute(_EMPTY)
            for address, key, rates in (
                (full_process.ingest, big.write_key, many),
                (empty_process.ingest, empty_key, empty),
            ):
                requests = requests_of(max(CALLERS, events // _EVENTS_A_CALL), _EVENTS_A_CALL, rng)
                rates.append(call_all(address, key, requests, CALLERS).rate)
            say(f"growth: turn {turn + 1} of {_ROUNDS}, {many[-1]:,.0f} events/s, on empty tables {empty[-1]:,.0f}")
    return many, empty


def _empty_database(stage: Stage) -> tuple[str, str]:
    """The URL of a second database on the same server, and the write key of its one site."""
    with stage.database() as connection:
        connection.execute("CREATE DATABASE footfall_empty")
    url = sa.make_url(stage.database_url).set(database="footfall_empty").render_as_string(hide_password=False)
    migrate_schema(url)
    settings = {"FOOTFALL_DATABASE_URL": url, "FOOTFALL_ADMIN_KEY": stage.connection.admin_key}
    with stage.another("admin", **settings) as (process, _), process.open_admin() as admin:
        return url, str(admin.CreateSite(admin_pb2.CreateSiteRequest(slug="empty")).write_key)


if __name__ == "__main__":
    main(__doc__, measure)
