"""The schema is what common/tables.py says, however it came to be."""

import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from pyroaring import BitMap

import common.migrate
from common.db import Database
from common.migrate import migrate
from common.tables import metadata
from common.visitor_sets import encode_counts, encode_set, positive_of_counts, union_of_sets
from tests.support.suite import database_on

ROOT = Path(__file__).parents[2]

# What alembic's comparison leaves out: order, collation and default of columns, keys, storage, sequences.
_COLUMNS = """
SELECT c.relname, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, l.collname,
       pg_get_expr(d.adbin, d.adrelid)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_collation l ON l.oid = a.attcollation
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND c.relname <> 'alembic_version'
"""
_INDEXES = "SELECT tablename, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
_CONSTRAINTS = """
SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE connamespace = 'public'::regnamespace AND conrelid <> coalesce(to_regclass('alembic_version'), 0)
"""
_STORAGE = "SELECT relname, reloptions FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
_SEQUENCES = """
SELECT sequencename, data_type::text, start_value, min_value, max_value, increment_by, cycle, cache_size
FROM pg_sequences WHERE schemaname = 'public'
"""
# The columns of every primary key and unique index of the tables that have a site_id.
_KEYS_OF_TENANTS = """
SELECT i.indrelid::regclass::text, i.indexrelid::regclass::text, array_agg(k.attname ORDER BY k.attnum)
FROM pg_index i JOIN pg_attribute k ON k.attrelid = i.indexrelid
JOIN pg_attribute s ON s.attrelid = i.indrelid AND s.attname = 'site_id'
WHERE i.indisunique GROUP BY 1, 2
"""
_SHARED = {"sites", "api_keys"}
"""Small tables that may be whole on every node."""


@contextmanager
def open_database(server_url: str) -> Iterator[Database]:
    """A new database without tables."""
    with database_on(server_url) as url:
        db = Database(url, application="test")
        yield db
        db.close()


def rows(db: Database, statement: str) -> list[tuple[object, ...]]:
    with db.connection() as connection:
        return sorted(connection.execute(statement).fetchall(), key=repr)


def catalogue(db: Database) -> dict[str, list[tuple[object, ...]]]:
    """Everything that the database knows of our tables."""
    found = {"columns": rows(db, _COLUMNS), "indexes": rows(db, _INDEXES), "constraints": rows(db, _CONSTRAINTS)}
    storage = [row for row in rows(db, _STORAGE) if row[0] != "alembic_version"]
    return found | {"storage": storage, "sequences": rows(db, _SEQUENCES)}


def downgrade(db: Database, revision: str = "base") -> None:
    """Takes migrations back, down to one of them or every one."""
    config = Config()
    config.set_main_option("script_location", str(Path(common.migrate.__file__).parent / "migrations"))
    with db.engine.connect() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, revision)
        connection.commit()


@pytest.fixture(scope="module")
def declared(postgres_url: str) -> Iterator[Database]:
    """The schema straight from the tables."""
    with open_database(postgres_url) as db:
        metadata.create_all(db.engine)
        yield db


@pytest.fixture
def migrated(postgres_url: str) -> Iterator[Database]:
    """The schema from the migrations."""
    with open_database(postgres_url) as db:
        migrate(db)
        yield db


def test_the_migrations_make_the_declared_schema(declared: Database, migrated: Database) -> None:
    """As alembic compares, and as the catalogue of a database made from the tables says."""
    with migrated.engine.connect() as connection:
        options = {"compare_type": True, "compare_server_default": True}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []
    ours, theirs = catalogue(migrated), catalogue(declared)
    for kind in theirs:
        assert ours[kind] == theirs[kind], kind


def test_migrating_again_changes_nothing(migrated: Database) -> None:
    """The secret that seals page tokens stays too."""
    before = catalogue(migrated), rows(migrated, "SELECT * FROM secrets")
    migrate(migrated)
    assert (catalogue(migrated), rows(migrated, "SELECT * FROM secrets")) == before


def test_the_way_back_leaves_nothing_and_the_way_up_is_open_again(declared: Database, migrated: Database) -> None:
    downgrade(migrated)
    assert [name for name, _ in rows(migrated, _STORAGE)] == ["alembic_version"]
    assert rows(migrated, _SEQUENCES) == []
    migrate(migrated)
    assert catalogue(migrated) == catalogue(declared)


def test_sets_of_visitors_survive_the_way_to_smaller_ones_and_back(migrated: Database) -> None:
    """Rows as they were written before: Roaring bitmaps, those of counts behind a count and a size of four bytes."""
    few, many = BitMap([70_000, 3]), BitMap(range(0, 900, 3))
    plain = [few.serialize(), many.serialize()]
    old = [
        struct.pack("<iI", count, len(body)) + body for count, body in ((1, plain[0]), (-200, plain[0]), (2, plain[1]))
    ]
    written = [(2, plain[0]), (2, plain[1]), (11, old[0]), (12, old[1] + old[2]), (12, None)]
    downgrade(migrated, "0004")
    with migrated.connect() as connection:
        for number, (dimension, row) in enumerate(written):
            values = (dimension, str(number), row)
            connection.execute(
                "INSERT INTO rollup_shards VALUES ('2026-01-01', 0, 1, 1, 1, 1, 1, 1, 1, 1, %s, %s, %s)", values
            )
    migrate(migrated)
    by_key: dict[str, bytes] = {}
    by_key.update(rows(migrated, "SELECT key, visitors FROM rollup_shards"))  # type: ignore[arg-type]
    assert (union_of_sets([by_key["0"]]), union_of_sets([by_key["1"]])) == (few, many)
    assert positive_of_counts([by_key["2"]]) == few
    assert positive_of_counts([by_key["3"]]) == many - few
    assert positive_of_counts([by_key["3"], encode_counts(dict.fromkeys(few, 201))]) == many | few
    with migrated.connect() as connection:
        connection.execute("UPDATE rollup_shards SET visitors = %s WHERE key = '0'", (encode_set(few),))
        connection.execute(
            "UPDATE rollup_shards SET visitors = %s WHERE key = '2'", (encode_counts({3: 1, 70_000: 1}),)
        )
    downgrade(migrated, "0004")
    again = rows(migrated, "SELECT key, dimension, visitors FROM rollup_shards")
    assert again == [(str(number), *row) for number, row in enumerate(written)]


def test_many_processes_may_migrate_at_once(postgres_url: str, declared: Database) -> None:
    """Each ends well, and the schema is made once."""
    with database_on(postgres_url) as url:
        command_line = [sys.executable, "-m", "cli.main", "migrate"]
        environment = {**os.environ, "FOOTFALL_DATABASE_URL": url}
        processes = [
            subprocess.Popen(command_line, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            for _ in range(4)
        ]
        outputs = [process.communicate(timeout=60)[0].decode() for process in processes]
        assert [process.returncode for process in processes] == [0] * 4, outputs
        db = Database(url, application="test")
        assert catalogue(db) == catalogue(declared)
        assert len(rows(db, "SELECT * FROM secrets")) == 1
        db.close()


def test_every_key_of_a_tenants_table_begins_with_its_site(migrated: Database) -> None:
    """So that the tables can be spread over nodes by site."""
    keys = [row for row in rows(migrated, _KEYS_OF_TENANTS) if row[0] not in _SHARED]
    assert {row[0] for row in keys} == {
        table.name for table in metadata.tables.values() if "site_id" in table.c and table.name not in _SHARED
    }
    for table, key, columns in keys:
        assert isinstance(columns, list)
        assert columns[0] == "site_id", (table, key)


def test_text_that_is_ranked_or_compared_is_ordered_by_bytes() -> None:
    """Every text column of a rollup's or a session's key, whatever the locale of the database."""
    for table, column in (("rollup_shards", "key"), ("events", "path"), ("sessions", "exit_page"), ("sites", "slug")):
        kind = metadata.tables[table].c[column].type
        assert isinstance(kind, sa.Text)
        assert kind.collation == "C"
