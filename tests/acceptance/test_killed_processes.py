"""Processes are killed at the worst moments; what was acknowledged is counted exactly once all the same."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import psycopg
import pytest

from cli.suite import running_suite
from common.db import plain_url
from tests.support.footfall_site import FootfallSite
from tests.support.processes import eventually, is_alive, restarted_pid, service_pids
from tests.support.pushback import Senders
from tests.support.suite import Suite, database_on
from tests.support.traffic import Sending, assert_recounts, made_up, overlapping, until_aggregated

# The backends that wait for a lock, of one service.
_WAITING = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = %s AND wait_event_type = 'Lock'
"""


@pytest.fixture(scope="module")
def own_suite(postgres_url: str, open_folder: Path) -> Iterator[Suite]:
    """A suite that aggregates by itself and whose processes may be killed."""
    with database_on(postgres_url) as url:
        folder = open_folder / "killed"
        environment = {**os.environ, "FOOTFALL_DATABASE_URL": url}
        with running_suite(folder, (0, 0, 0), environment) as connection:
            suite = Suite(connection, folder, url)
            yield suite
            suite.close()


def kill(suite: Suite, service: str) -> int:
    """Ends a service process as a power cut would; which one it was."""
    pid = service_pids(suite.data_dir)[service]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not is_alive(pid))
    return pid


def test_everything_acknowledged_is_counted_once_though_ingest_and_admin_are_killed_under_load(
    own_suite: Suite,
) -> None:
    """Senders try again with the same ids; each process is back at its address after each of its deaths."""
    site = FootfallSite(own_suite, "killed", rollup_shard_count=2)
    events = made_up(11, visitors=60, events=3000)
    batches = overlapping(events, 11, times=2, size=20)
    senders = Senders([Sending(site.ingest, site.write_key, batch) for batch in batches])
    senders.start()
    for victim, share in (("ingest", 0.1), ("admin", 0.3), ("ingest", 0.5)):
        goal = share * len(batches)
        eventually(lambda goal=goal: senders.acknowledged >= goal)  # type: ignore[misc]  # mypy wants no default
        before = kill(own_suite, victim)
        assert restarted_pid(own_suite.data_dir, victim, before) != before
    senders.finish()
    assert senders.refused[grpc.StatusCode.UNAVAILABLE] > 0
    assert (own_suite.data_dir / "ingest.address").read_text() == own_suite.ingest
    assert (own_suite.data_dir / "admin.address").read_text() == own_suite.admin
    until_aggregated(site)
    assert_recounts(site, events)


def waits_for_a_lock(watcher: psycopg.Connection[tuple[int]], service: str) -> bool:
    return watcher.execute(_WAITING, (f"footfall {service}",)).fetchone() == (1,)


def test_a_group_that_dies_before_its_commit_leaves_no_id_known(own_suite: Suite) -> None:
    """Ingest is held at its last step, after ids and batches were written, and killed there; what its senders
    try again is new, and no duplicate of something that was never stored."""
    site = FootfallSite(own_suite, "torn-ingest")
    events = made_up(13, visitors=10, events=200)
    url = plain_url(own_suite.database_url)
    with psycopg.connect(url) as holder, psycopg.connect(url, autocommit=True) as watcher:
        holder.execute("LOCK TABLE events IN SHARE ROW EXCLUSIVE MODE")
        batches = overlapping(events, 13, times=1, size=50)
        senders = Senders([Sending(site.ingest, site.write_key, batch) for batch in batches])
        senders.start()
        eventually(lambda: waits_for_a_lock(watcher, "ingest"))
        restarted_pid(own_suite.data_dir, "ingest", kill(own_suite, "ingest"))
        holder.rollback()
    senders.finish()
    assert senders.accepted == len(events)
    until_aggregated(site)
    assert_recounts(site, events)


def test_a_chunk_of_aggregation_that_dies_before_its_commit_leaves_nothing_behind(own_suite: Suite) -> None:
    """The worker is held at its last step, after visitors and sessions were written, and killed there."""
    site = FootfallSite(own_suite, "torn")
    events = made_up(12, visitors=10, events=200)
    with psycopg.connect(plain_url(own_suite.database_url)) as holder:
        holder.execute("LOCK TABLE rollup_shards IN SHARE ROW EXCLUSIVE MODE")
        for batch in overlapping(events, 12, times=1, size=50):
            Sending(site.ingest, site.write_key, batch).send()
        with psycopg.connect(plain_url(own_suite.database_url), autocommit=True) as watcher:
            eventually(lambda: waits_for_a_lock(watcher, "admin"))
            before = kill(own_suite, "admin")
            of_site = "(SELECT site_id FROM sites WHERE slug = %s)"
            for table in ("visitors", "sessions", "rollup_shards"):
                found = watcher.execute(f"SELECT count(*) FROM {table} WHERE site_id = {of_site}", (site.slug,))
                assert found.fetchone() == (0,)
            restarted_pid(own_suite.data_dir, "admin", before)
        holder.rollback()
    until_aggregated(site)
    assert_recounts(site, events)
