"""A small run of `python -m bench.fuzz`: random messages to every RPC that reflection names."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.fuzz import fuzz
from cli.suite import running_suite
from tests.support.suite import Suite, database_on


@pytest.fixture(scope="module")
def fuzzed_suite(postgres_url: str, open_folder: Path) -> Iterator[Suite]:
    """A suite whose sites and keys may come to harm. Nothing runs by itself."""
    with database_on(postgres_url) as url:
        folder = open_folder / "fuzzed"
        environment = {**os.environ, "FOOTFALL_DATABASE_URL": url, "FOOTFALL_SCHEDULE": "off"}
        with running_suite(folder, (0, 0, 0), environment) as connection:
            suite = Suite(connection, folder, url)
            yield suite
            suite.close()


def test_random_messages_are_answered_or_refused_with_a_reason_and_harm_nothing(fuzzed_suite: Suite) -> None:
    """No INTERNAL, no UNKNOWN, nobody is let in without a right key, no process ends, every figure recounts."""
    found = fuzz(fuzzed_suite, seed=7, count=500)
    assert found.wrong == []
    assert found.verdicts.answered > 50
    assert len({refusal.reason for refusal in found.verdicts.refused}) > 8
