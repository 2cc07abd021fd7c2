"""`footfall maintain`: each command goes on to the end, stops when told to, and can be started again."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cli import maintain, pages
from tests.support.commands import footfall
from tests.support.footfall_site import FootfallSite
from tests.support.processes import eventually
from tests.support.site_rows import site_id_of
from tests.support.suite import Suite
from tests.support.traffic import batch_of, made_up
from tests.support.upkeep import compact, everything, keep, sizes, state_of

Connection = psycopg.Connection[Any]
STOPPED = "Stopped. What was done stays done; run it again to go on."


def pending_site(suite: Suite, seed: int, events: int = 40) -> FootfallSite:
    """A site with pending events, a batch of them each."""
    site = FootfallSite(suite, "maintain")
    for event in made_up(seed, visitors=4, events=events):
        site.send(batch_of([event]))
    return site


def uncompacted_site(suite: Suite, seed: int) -> FootfallSite:
    site = pending_site(suite, seed)
    site.aggregate()
    return site


def expired_site(suite: Suite, seed: int) -> FootfallSite:
    """All of it has passed its retention, for the traffic is of 2024."""
    site = uncompacted_site(suite, seed)
    compact(site)
    keep(site, retention_days=1, daily_rollup_retention_days=1)
    return site


def failed_site(suite: Suite, seed: int, database: Connection) -> FootfallSite:
    """Its pending events have become dead letters."""
    site = pending_site(suite, seed)
    site_id = site_id_of(database, site)
    database.execute(
        "WITH gone AS (DELETE FROM pending_batches WHERE site_id = %s RETURNING *) INSERT INTO failed_events "
        "SELECT site_id, batch_id, first_ord, partition, 3, received_at, received_at, 'dead letter' FROM gone",
        (site_id,),
    )
    return site


def waiting(suite: Suite, name: str, seed: int, database: Connection) -> tuple[FootfallSite, Callable[[], int]]:
    """A site with work for the command, and what is left of it."""
    match name:
        case "aggregate":
            site = pending_site(suite, seed)
            return site, lambda: state_of(site).pending_events
        case "compact":
            site = uncompacted_site(suite, seed)
            return site, lambda: state_of(site).unfolded_deltas
        case "retry":
            site = failed_site(suite, seed, database)
            return site, lambda: state_of(site).failed_events
        case _:
            site = expired_site(suite, seed)
            return site, lambda: sum(sizes(database, site_id_of(database, site)).values())


COMMANDS = ["aggregate", "compact", "retry", "cleanup"]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_loops_to_the_end(suite: Suite, database: Connection, name: str) -> None:
    """Over chunks of 7, and says how much it did; once more there is nothing."""
    site, left = waiting(suite, name, 581, database)
    before = left()
    assert before > 14
    code, output = footfall(suite, "maintain", name, "--site", site.slug, "--limit", 7)
    assert code == 0, output
    assert left() == 0
    assert "There is more" not in output
    if name != "cleanup":
        assert f"{before:,} " in output
    code, output = footfall(suite, "maintain", name, "--site", site.slug)
    assert code == 0, output
    assert "\n0 " in output


@pytest.mark.parametrize("name", COMMANDS)
def test_max_pages_stops_early_and_says_that_there_is_more(suite: Suite, database: Connection, name: str) -> None:
    """Two chunks of 7, then the rest by another run."""
    site, left = waiting(suite, name, 582, database)
    before = left()
    code, output = footfall(suite, "maintain", name, "--site", site.slug, "--limit", 7, "--max-pages", 2)
    assert code == 0, output
    assert left() == before - 14
    assert "There is more; run it again to go on." in output
    code, output = footfall(suite, "maintain", name, "--site", site.slug)
    assert (code, left()) == (0, 0), output


@pytest.mark.parametrize("name", COMMANDS)
def test_a_dry_run_says_how_much_there_is_and_changes_nothing(suite: Suite, database: Connection, name: str) -> None:
    """Not a row of the site."""
    site, left = waiting(suite, name, 583, database)
    before, amount = everything(database, site_id_of(database, site)), left()
    code, output = footfall(suite, "maintain", name, "--site", site.slug, "--dry-run")
    assert code == 0, output
    assert everything(database, site_id_of(database, site)) == before
    told = [int(number.replace(",", "")) for number in re.findall(r"(?m)^([\d,]+) ", output)]
    assert sum(told) == amount


def test_prune_goes_to_the_end_over_all_sites(suite: Suite, database: Connection) -> None:
    """Chunk by chunk; stopped after one it says that there is more."""
    sites = [pending_site(suite, seed, events=9) for seed in (584, 585)]
    for site in sites:
        database.execute(
            "UPDATE ingest_dedupes SET expires_at = now() - interval '1 s' WHERE site_id = %s",
            (site_id_of(database, site),),
        )
    code, output = footfall(suite, "maintain", "prune", "--limit", 5, "--max-pages", 1)
    assert (code, "There is more" in output) == (0, True), output
    assert "5 expired keys deleted" in output
    code, output = footfall(suite, "maintain", "prune", "--limit", 5)
    assert code == 0, output
    for site in sites:
        found = database.execute(
            "SELECT count(*) FROM ingest_dedupes WHERE site_id = %s", (site_id_of(database, site),)
        ).fetchone()
        assert found == (0,)


@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_during_a_chunk_exits_130_with_a_sentence_and_it_can_be_started_again(
    suite: Suite, database: Connection, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two chunks are done when it comes; they stay done."""
    site, left = waiting(suite, name, 586, database)
    before = left()
    asked: list[str] = []

    def each_page(ask: Callable[[str], Any], *arguments: Any) -> Any:
        def interrupted(token: str) -> Any:
            asked.append(token)
            if len(asked) == 3:
                raise KeyboardInterrupt
            return ask(token)

        return each(interrupted, *arguments)

    each = pages.each_page
    monkeypatch.setattr(maintain, "each_page", each_page)
    code, output = footfall(suite, "maintain", name, "--site", site.slug, "--limit", 7)
    assert code == 130
    assert STOPPED in " ".join(output.split())
    assert left() == before - 14
    monkeypatch.undo()
    code, output = footfall(suite, "maintain", name, "--site", site.slug)
    assert (code, left()) == (0, 0), output


@contextmanager
def sigint_not_ignored() -> Iterator[None]:
    """Processes started meanwhile heed SIGINT, also where the tests run in the background of a shell, which has them
    ignore it. Not by `preexec_fn`: that forks this process, and gRPC's threads sometimes abort the child."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_real_sigint_stops_a_real_process_within_its_chunk(suite: Suite, database: Connection) -> None:
    """It waits for a row that somebody holds when the signal comes; it ends with 130 and one sentence, no traceback."""
    site = expired_site(suite, 587)
    site_id = site_id_of(database, site)
    environment = {**os.environ, "FOOTFALL_DATA_DIR": str(suite.data_dir)}
    arguments = ["maintain", "cleanup", "--site", site.slug, "--limit", "10"]
    with psycopg.connect(suite.database_url.replace("+psycopg", "")) as holder:
        holder.execute("SELECT pg_advisory_xact_lock(%s, -2)", (site_id,))
        with sigint_not_ignored():
            process = subprocess.Popen(
                [sys.executable, "-m", "cli.main", *arguments],
                cwd=Path(__file__).parents[2],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        blocked = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND classid = %s"
        eventually(lambda: process.poll() is not None or database.execute(blocked, (site_id,)).fetchone() is not None)
        assert process.poll() is None, process.communicate()
        process.send_signal(signal.SIGINT)
        output, message = process.communicate(timeout=20)
    assert process.returncode == 130, (output, message)
    assert message.decode().strip() == STOPPED
    code, said = footfall(suite, "maintain", "cleanup", "--site", site.slug)
    assert code == 0, said
    assert not any(sizes(database, site_id).values())


def test_a_site_that_is_not_there_is_one_line(suite: Suite) -> None:
    """No traceback; exit code 1."""
    for name in COMMANDS:
        for options in ((), ("--dry-run",)):
            code, output = footfall(suite, "maintain", name, "--site", "nobody", *options)
            assert code == 1
            assert "SITE_NOT_FOUND" in output
            assert "Traceback" not in output
