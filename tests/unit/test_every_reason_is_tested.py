"""A reason that no test names is one that nobody has seen refused."""

import ast
from collections.abc import Iterator
from pathlib import Path

from common.errors import Reason

TESTS = Path(__file__).parents[1]
REASONS = frozenset(reason.name for reason in Reason)


def reasons_named(path: Path) -> Iterator[str]:
    """The reasons that stand in the module's code as a text of their own or as a member of Reason; prose is none."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and node.value in REASONS:
            yield str(node.value)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "Reason":
            yield node.attr


def test_every_reason_is_named_by_a_test_besides_this_one() -> None:
    modules = [path for path in TESTS.rglob("test_*.py") if path != Path(__file__)]
    named = {reason for path in modules for reason in reasons_named(path)}
    assert sorted(REASONS - named) == []
