"""A small run of `python -m bench.kills`: processes are killed by chance, Postgres among them, and nothing is lost."""

import os
import signal

from bench.kills import Plan, kill_and_recount
from bench.own_suite import open_stage
from bench.victims import POSTMASTER, victims
from tests.support.processes import eventually, service_pids


def test_whatever_is_killed_under_load_every_answer_equals_the_recount_of_what_was_acknowledged() -> None:
    """Each event is sent twice; reports, maintenance and a rebuild go on meanwhile."""
    with open_stage(FOOTFALL_SCHEDULE="on") as stage:
        found = kill_and_recount(stage, Plan(kills=4, seconds=4, rate=150, workers=1, seed=3))
    assert sum(found.killed.values()) == 4
    assert found.wrong == []
    assert found.aggregated == found.events == 300


def test_postgres_is_started_again_while_a_service_that_needs_it_is_waited_for() -> None:
    """The workers of the service do not answer without a database, and it is waited for up to a minute."""
    with open_stage(FOOTFALL_WORKERS="2") as stage:
        os.kill(service_pids(stage.folder)["admin"], signal.SIGKILL)
        eventually(lambda: not (stage.folder / "admin.address").exists())
        [before] = victims(stage.folder)[POSTMASTER]
        os.kill(before, signal.SIGKILL)
        eventually(lambda: victims(stage.folder).get(POSTMASTER, [before]) != [before])
        eventually(lambda: (stage.folder / "admin.address").exists(), 60)
