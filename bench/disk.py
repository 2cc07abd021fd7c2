"""The size of a site's rows on disk, by table and index."""

from collections.abc import Iterator

from bench.figures import Figure
from bench.own_suite import MEGABYTE, Stage

ROLLUPS_OVER_EVENTS = 0.25
ALL_OVER_HEAP = 2.0

_TABLES = ("events", "sessions", "visitors", "rollup_shards")
"""Without dedupe keys, which are deleted after a day."""

_TABLE = "SELECT pg_relation_size(%(table)s::regclass), pg_table_size(%(table)s::regclass)"
_INDEXES = """
SELECT indexrelid::regclass::text, pg_relation_size(indexrelid) FROM pg_index WHERE indrelid = %(table)s::regclass
ORDER BY 1
"""


def disk_figures(stage: Stage, part: str, events: int) -> list[Figure]:
    """Bytes per event, of tables with one loaded site only. They have no dead rows, unlike those of a site in use."""
    with stage.database() as connection:
        heaps: dict[str, int] = {}
        tables: dict[str, int] = {}
        indexes: dict[str, dict[str, int]] = {}
        for table in _TABLES:
            row = connection.execute(_TABLE, {"table": table}).fetchone()
            assert row is not None
            heaps[table], tables[table] = row
            indexes[table] = dict(connection.execute(_INDEXES, {"table": table}).fetchall())
    total = {table: tables[table] + sum(indexes[table].values()) for table in _TABLES}
    rollups = total["rollup_shards"] / total["events"]
    everything = sum(total.values()) / heaps["events"]

    def lines() -> Iterator[Figure]:
        yield Figure(part, "rollups over events with indexes", rollups, "×", ROLLUPS_OVER_EVENTS, at_least=False)
        yield Figure(part, "everything over the events heap", everything, "×", ALL_OVER_HEAP, at_least=False)
        yield Figure(part, "everything on disk", sum(total.values()) / MEGABYTE, "MB")
        for table in _TABLES:
            yield Figure(part, f"  {table}: table", tables[table] / events, "bytes/event")
            for index, size in indexes[table].items():
                yield Figure(part, f"  {table}: {index}", size / events, "bytes/event")

    return list(lines())
