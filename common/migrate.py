"""Brings the schema up to date."""

import logging
import time
from pathlib import Path

import psycopg
import sqlalchemy as sa
import sqlalchemy.exc
from alembic import command
from alembic.config import Config
from alembic.util import CommandError

from common.db import Database
from common.locks import MIGRATION
from common.schema_revision import SchemaError

_log = logging.getLogger(__name__)

LOCK_TIMEOUT_MS = 10_000
"""How long a migration waits to lock a table that services use. Later calls on that table wait behind it."""
_TRIES = 5
_PAUSE_SECONDS = 1.0
_TRIED_AGAIN = (psycopg.errors.DeadlockDetected, psycopg.errors.LockNotAvailable)


def migrate(db: Database) -> None:
    """Applies the migrations that are missing. Any number of processes may call it at once.

    A migration that meets a deadlock or a lock that is not released is tried five times in all. Raises SchemaError for
    a schema that this release does not know, and the errors of DatabaseFault.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    with db.engine.connect() as connection:
        # The other processes wait until the one that migrates has ended, and then find nothing to do.
        connection.execute(sa.select(sa.func.pg_advisory_lock(MIGRATION)))
        connection.execute(sa.text(f"SET lock_timeout = {LOCK_TIMEOUT_MS}"))
        connection.commit()
        try:
            config.attributes["connection"] = connection
            _upgrade(config, connection)
        finally:
            if not connection.invalidated:
                connection.rollback()
                connection.execute(sa.select(sa.func.pg_advisory_unlock(MIGRATION)))
                connection.commit()


def _upgrade(config: Config, connection: sa.Connection) -> None:
    for left in reversed(range(_TRIES)):
        try:
            command.upgrade(config, "head")
            return
        except CommandError as error:
            # Alembic raises it here only when it has no script for the revision that the database is at.
            raise SchemaError(f"the schema is of another release: {error}") from None
        except sqlalchemy.exc.DBAPIError as error:
            if not left or not isinstance(error.orig, _TRIED_AGAIN):
                raise
            connection.rollback()
            _log.warning("the migration could not have a lock; trying again: %s", error.orig)
            time.sleep(_PAUSE_SECONDS)
