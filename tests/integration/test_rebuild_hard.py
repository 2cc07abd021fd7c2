"""`footfall rebuild` where it is hard: old raw events gone, events that cannot be aggregated, everybody busy."""

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from footfall.query.v1 import query_pb2

from cli.suite import running_suite
from tests.oracle.raw_events import DAY, HOUR, MINUTE, RawEvent
from tests.oracle.recount import Recount
from tests.oracle.tables import expected_tables
from tests.support.commands import footfall
from tests.support.footfall_site import FootfallSite, time_range
from tests.support.hands import LATER, Hands, hands_on
from tests.support.processes import eventually, running_service
from tests.support.rebuilding import instant_of, rebuilt, sent
from tests.support.retention import clean_up
from tests.support.suite import Suite, database_on
from tests.support.traffic import (
    SESSION_TIMEOUT,
    START,
    WHOLE,
    Sending,
    assert_recounts,
    batch_of,
    made_up,
    metadata_of,
    overlapping,
    send_all,
    until_aggregated,
)
from tests.support.upkeep import compact

POISON = "/poison"


def across(midnight: int) -> list[RawEvent]:
    """Sessions that reach over a midnight: by one event, by several, by a day, and one that begins with it."""
    shapes = {
        "one": (-10, 5),
        "several": (-40, -20, 0, 20, 40),
        "day": tuple(range(-60, 26 * 60, 30)),
        "begins": (0, 10),
        "alone": (-31, 0, 31),
    }
    ids = iter(made_up(50, visitors=1, events=200))
    return [
        replace(
            next(ids),
            visitor_id=f"across {name}",
            session_id="tab 1",
            occurred_at=midnight + minute * MINUTE,
            path=f"/{minute}",
            type="pageview",
            name="",
            user_id="",
        )
        for name, minutes in shapes.items()
        for minute in minutes
    ]


@pytest.mark.parametrize("raw_from", [START + 2 * DAY, START + DAY + 5 * HOUR, START + 2 * DAY - HOUR // 3])
def test_what_has_no_raw_events_stays_and_nothing_is_aggregated_twice(hands: Hands, raw_from: int) -> None:
    """Rollups and sessions that begin before the horizon are not written at all; answers and tables are what they were
    before; what is damaged after the horizon is whole again; later events go on in the sessions they belong to."""
    horizon = START + 2 * DAY
    events = made_up(51, visitors=10, events=300) + across(horizon)
    later = [event for event in events if event.occurred_at >= horizon - HOUR][::5]
    early = [event for event in events if event not in later]
    site = sent(hands, "rebuild-retention", early)
    compact(site)
    clean_up(hands.connection, hands.site_id(site), instant_of(raw_from), instant_of(raw_from // HOUR * HOUR - HOUR))
    before = hands.tables(site)
    spans = [(start, end) for start in (horizon - HOUR, horizon + 90 * MINUTE) for end in WHOLE[1:]]
    answers = [answered for span in spans for answered in answers_of(site, span)]
    at = f"'{instant_of(horizon).isoformat()}'"
    old_rollups, old_sessions = (
        hands.rows(site, "rollup_shards", f"bucket_start < {at}"),
        hands.rows(site, "sessions", f"started_at < {at}"),
    )
    for table, column in (("rollup_shards", "bucket_start"), ("sessions", "started_at")):
        assert hands.connection.execute(
            f"UPDATE {table} SET pageviews = pageviews + 7 WHERE site_id = %s AND {column} >= {at}",
            (hands.site_id(site),),
        ).rowcount
    rebuilt(site, limit=50)
    assert hands.rows(site, "rollup_shards", f"bucket_start < {at} AND delta_no = 0") == old_rollups
    assert hands.rows(site, "sessions", f"started_at < {at}") == old_sessions
    assert hands.tables(site) == before
    assert [answered for span in spans for answered in answers_of(site, span)] == answers
    code, output = footfall(hands.suite, "verify", "--site", site.slug)
    assert code == 0, output
    site.send(batch_of(later))
    site.aggregate()
    recount = Recount(events, SESSION_TIMEOUT)
    for query, expected, answered in site.compare(recount, horizon, WHOLE[1]):
        assert answered == expected, query
    rebuilt(site)
    for query, expected, answered in site.compare(recount, horizon, WHOLE[1]):
        assert answered == expected, query


def test_an_event_that_waits_goes_on_in_a_session_that_stays(hands: Hands) -> None:
    """It is aggregated after the replayed events, so that it may join what stays and what was made anew."""
    horizon = START + 2 * DAY
    stays, anew, waits = (
        replace(event, visitor_id="ann", session_id="", type="pageview", name="", occurred_at=horizon + minute * MINUTE)
        for event, minute in zip(made_up(55, visitors=1, events=3), (-5, 45, 20), strict=True)
    )
    stays_on = replace(stays, event_id="00000000-0000-7000-8000-000000000055", occurred_at=horizon + MINUTE)
    site = sent(hands, "rebuild-waits", [stays, stays_on, anew], partitions=1)
    compact(site)
    clean_up(hands.connection, hands.site_id(site), instant_of(horizon - HOUR))
    site.send(batch_of([waits]))
    assert sum(chunk.queued for chunk in rebuilt(site)) == 2
    site.aggregate()
    assert hands.tables(site) == expected_tables(Recount([stays, stays_on, anew, waits], SESSION_TIMEOUT))


def answers_of(site: FootfallSite, span: tuple[int, int]) -> list[object]:
    """Every report and list over a range."""
    return [answered for _, _, answered in site.compare(Recount([], SESSION_TIMEOUT), *span)]


def test_an_event_that_cannot_be_aggregated_again_becomes_a_dead_letter_alone(hands: Hands) -> None:
    """After its three attempts the rebuild ends, all others are aggregated, and those that came meanwhile too; the next
    rebuild leaves it where it is."""
    events = made_up(52, visitors=8, events=150)
    bad = replace(events[0], event_id="00000000-0000-7000-8000-000000000052", visitor_id="nobody", path=POISON)
    site = sent(hands, "rebuild-poison", [*events[:75], bad, *events[75:]])
    meanwhile = made_up(53, visitors=8, events=20)
    hands.connection.execute(
        f"""
        CREATE FUNCTION refuse_poison() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'this is poison'; END $$;
        CREATE TRIGGER poison BEFORE INSERT OR UPDATE ON sessions FOR EACH ROW
        WHEN (NEW.page = '{POISON}') EXECUTE FUNCTION refuse_poison();
        """
    )
    try:
        now, chunk = LATER, hands.rebuild_chunk(site, limit=40)
        site.send(batch_of(meanwhile))
        for _ in range(200):
            if not chunk.has_more:
                break
            chunk = hands.rebuild_chunk(site, *chunk.position, limit=40, now=now)
            now += timedelta(seconds=1)
        assert not chunk.has_more
    finally:
        hands.connection.execute("DROP TRIGGER poison ON sessions; DROP FUNCTION refuse_poison()")
    metadata = metadata_of(site)
    assert (metadata.failed_events, metadata.pending_events) == (1, len(meanwhile))
    site.aggregate()
    assert_recounts(site, events + meanwhile, not_aggregated=[bad])
    assert sum(one.queued for one in rebuilt(site)) == len(events + meanwhile)
    assert metadata_of(site).failed_events == 1
    assert_recounts(site, events + meanwhile, not_aggregated=[bad])


@pytest.fixture(scope="module")
def busy(postgres_url: str, open_folder: Path) -> Iterator[Suite]:
    """A suite that aggregates and compacts by itself, in two admin processes."""
    with ExitStack() as stack:
        url = stack.enter_context(database_on(postgres_url))
        environment = {**os.environ, "FOOTFALL_DATABASE_URL": url}
        folder = open_folder / "busy"
        connection = stack.enter_context(running_suite(folder, (0, 0, 0), environment))
        suite = Suite(connection, folder, url)
        stack.callback(suite.close)
        stack.enter_context(running_service("admin", folder, environment))
        yield suite


class Reading(threading.Thread):
    """Asks for a site's overview, over and over: whenever it is exact, every event is aggregated or pending."""

    def __init__(self, site: FootfallSite) -> None:
        super().__init__()
        self._site = site
        self._stopping = threading.Event()
        self.known = [0]

    def run(self) -> None:
        request = query_pb2.GetOverviewRequest(site=self._site.slug, range=time_range(*WHOLE))
        while not self._stopping.is_set():
            report = self._site.query.GetOverview(request, metadata=self._site.as_admin)
            if report.metadata.exact:
                self.known.append(report.metrics.events + report.metadata.pending_events)

    def finish(self, total: int) -> None:
        """Ends it: what is known never got less."""
        self._stopping.set()
        self.join()
        assert self.known == sorted(self.known)
        assert self.known[-1] <= total


def test_a_rebuild_under_load_ends_in_the_recount(busy: Suite) -> None:
    """Two admin processes aggregate and compact, ingest goes on all the while, several rebuilds after one another."""
    site = FootfallSite(busy, "busy", rollup_shard_count=4)
    events = made_up(54, visitors=30, events=1_200)
    sendings = [
        Sending(busy.ingest_stub(), site.write_key, batch) for batch in overlapping(events, 54, times=3, size=20)
    ]
    sending = threading.Thread(target=send_all, args=(sendings, 4))
    reading = Reading(site)
    reading.start()
    sending.start()
    rounds = 0
    while sending.is_alive() or rounds < 2:
        code, output = footfall(busy, "rebuild", "--site", site.slug, "--limit", "150")
        assert code == 0, output
        rounds += 1
    sending.join()
    until_aggregated(site)
    reading.finish(len(events))
    assert_recounts(site, events)
    with hands_on(busy) as hands:
        eventually(lambda: not hands.rows(site, "rollup_shards", "delta_no > 0"))
        assert hands.tables(site) == expected_tables(Recount(events, SESSION_TIMEOUT))
    code, output = footfall(busy, "verify", "--site", site.slug)
    assert code == 0, output
