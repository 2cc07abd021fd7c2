"""How much of the tables statements visit, told by Postgres and not by a clock."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg


@dataclass
class Visited:
    """Of all statements since it was begun."""

    scans: int = 0
    """How often an index or a table was entered."""
    rows: int = 0
    """Rows that were read there, those of no use included."""
    statements: int = 0


@contextmanager
def visits_counted(connection: psycopg.Connection[Any]) -> Iterator[Visited]:
    """Every statement of the connection's plain cursors is run twice, first by EXPLAIN ANALYZE, which is counted."""
    visited = Visited()

    class Explaining(psycopg.Cursor[Any]):
        def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
            with psycopg.Cursor(self.connection) as plain:
                plain.execute(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {query}", params)
                row = plain.fetchone()
            assert row is not None
            visited.statements += 1
            _count(row[0][0]["Plan"], visited)
            return super().execute(query, params, **options)

    before = connection.cursor_factory
    connection.cursor_factory = Explaining
    try:
        yield visited
    finally:
        connection.cursor_factory = before


def _count(node: dict[str, Any], visited: Visited) -> None:
    # A bitmap is read from its index by a node of its own.
    if "Relation Name" in node or "Index Name" in node:
        removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
        visited.scans += node["Actual Loops"]
        visited.rows += round((node["Actual Rows"] + removed) * node["Actual Loops"])
    for child in node.get("Plans", ()):
        _count(child, visited)
