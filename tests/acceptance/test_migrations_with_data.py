"""Each migration keeps every number of a database with data: it is taken back and applied again, and verified."""

import os
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config

import common.migrate
from cli.suite import running_suite
from common.db import Database
from common.migrate import MIGRATION_LIMITS, migrate
from common.schema_revision import known_revisions
from tests.support.commands import footfall
from tests.support.hands import hands_on
from tests.support.rebuilding import sent
from tests.support.suite import Suite, database_on
from tests.support.traffic import made_up


def test_verify_is_clean_after_each_migration_of_a_database_with_data(
    postgres_url: str, open_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First and last touch of visitors, which 0003 adds and 0010 fills, included."""
    folder = open_folder / "migrated"
    with database_on(postgres_url) as url:
        environment = {**os.environ, "FOOTFALL_DATABASE_URL": url, "FOOTFALL_SCHEDULE": "off"}
        slug = ""
        for revision in (None, *reversed(known_revisions()[:-1])):
            if revision is not None:
                _again(url, revision)
            with running_suite(folder, (0, 0, 0), environment) as connection:
                suite = Suite(connection, folder, url)
                if not slug:
                    with hands_on(suite) as hands:
                        slug = sent(hands, "migrated", made_up(91, visitors=12, events=200)).slug
                code, output = footfall(suite, "verify", "--site", slug)
                suite.close()
            assert code == 0, (revision, output)


def _again(url: str, revision: str) -> None:
    """Takes the migrations after the revision back and applies them again."""
    config = Config()
    config.set_main_option("script_location", str(Path(common.migrate.__file__).parent / "migrations"))
    with closing(Database(url, application="test", limits=MIGRATION_LIMITS)) as db:
        with db.engine.connect() as connection:
            config.attributes["connection"] = connection
            command.downgrade(config, revision)
            connection.commit()
        migrate(db)
