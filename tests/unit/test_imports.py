"""What test files may import: helpers are in `tests.support`, recounts in `tests.oracle`, and a test is in no other."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PRODUCT = ("admin_svc", "bench", "cli", "common", "ingest_svc", "query_svc")


def imported(file: Path) -> Iterator[str]:
    """The dotted names that the file imports; of `from a import b` it is `a.b`."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def of(*folders: str) -> list[Path]:
    found = [file for folder in folders for file in sorted((TESTS / folder).rglob("*.py"))]
    assert found
    return found


def test_no_file_imports_a_test_module() -> None:
    """So that a test can be read, moved and run without another."""
    for file in of("."):
        names = [part for name in imported(file) for part in name.split(".") if name.startswith("tests.")]
        assert not [name for name in names if name.startswith("test_")], file


@pytest.mark.parametrize("file", of("oracle"), ids=lambda file: file.name)
def test_a_recount_shares_no_code_with_the_product(file: Path) -> None:
    """Nor with the helpers that speak to it."""
    assert not [name for name in imported(file) if name.split(".")[0] in PRODUCT or name.startswith("tests.support")]


def test_a_helper_needs_no_test_suite() -> None:
    """`tests.support` imports nothing of the folders that hold tests."""
    suites = tuple(f"tests.{folder}." for folder in ("acceptance", "integration", "property", "unit"))
    for file in of("support"):
        assert not [name for name in imported(file) if name.startswith(suites)], file
