"""A small run of `python -m bench.kills`: processes are killed by chance, Postgres among them, and nothing is lost."""

from bench.kills import Plan, kill_and_recount
from bench.own_suite import open_stage


def test_whatever_is_killed_under_load_every_answer_equals_the_recount_of_what_was_acknowledged() -> None:
    """Each event is sent twice; reports, maintenance and a rebuild go on meanwhile."""
    with open_stage(FOOTFALL_SCHEDULE="on") as stage:
        found = kill_and_recount(stage, Plan(kills=4, seconds=4, rate=150, workers=1, seed=3))
    assert sum(found.killed.values()) == 4
    assert found.wrong == []
    assert found.aggregated == found.events == 300
