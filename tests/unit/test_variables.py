"""Misspelt variables are named."""

import re
from pathlib import Path

from common.process.variables import KNOWN, unknown_variables

ROOT = Path(__file__).parents[2]


def test_a_misspelt_variable_is_named_with_the_one_that_was_meant() -> None:
    """Not its value, and nothing that is not Footfall's."""
    found = unknown_variables(["FOOTFALL_DATABSE_URL", "FOOTFALL_POOL_SIZE", "footfall_listen", "PATH", "FOOTFALL_QQQ"])
    assert [(line.split()[0], line.rpartition("; ")[2]) for line in found] == [
        ("FOOTFALL_DATABSE_URL", "did you mean FOOTFALL_DATABASE_URL?"),
        ("FOOTFALL_QQQ", "docs/settings.md lists all"),
    ]


def test_the_variables_are_those_of_the_docs() -> None:
    named = set(re.findall(r"`(FOOTFALL_[A-Z_]+)`", (ROOT / "docs" / "settings.md").read_text()))
    assert named == KNOWN
