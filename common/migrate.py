"""Brings the schema up to date."""

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from common.db import Database
from common.locks import MIGRATION


def migrate(db: Database) -> None:
    """Applies the migrations that are missing. Any number of processes may call it at once."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    with db.engine.connect() as connection:
        connection.execute(sa.select(sa.func.pg_advisory_lock(MIGRATION)))
        connection.commit()
        try:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
        finally:
            connection.rollback()
            connection.execute(sa.select(sa.func.pg_advisory_unlock(MIGRATION)))
            connection.commit()
