"""Brings the schema up to date."""

import logging
import time
from contextlib import closing
from pathlib import Path

import psycopg
import sqlalchemy as sa
import sqlalchemy.exc
from alembic import command
from alembic.config import Config
from alembic.util import CommandError

from common.connection import UNLIMITED, Limits
from common.db import Database
from common.locks import MIGRATION
from common.schema_revision import SchemaError, check_encoding

_log = logging.getLogger(__name__)

MIGRATION_LIMITS = Limits(0, 10_000, 0)
"""A migration waits 10 s to lock a table that services use. Later calls on that table wait behind it."""
_TRIES = 5
_PAUSE_SECONDS = 1.0
_TRIED_AGAIN = (psycopg.errors.DeadlockDetected, psycopg.errors.LockNotAvailable)


def migrate(db: Database) -> None:
    """Applies the migrations that are missing. Any number of processes may call it at once.

    The limits of `db` are MIGRATION_LIMITS. A migration that meets a deadlock or a lock that is not released is tried
    five times in all. Raises SchemaError for a database that this release cannot serve on, and the errors of
    DatabaseFault.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    # The other processes wait until the one that migrates has ended, and then find nothing to do. The lock is held by
    # a transaction on a connection of its own: a lock of a session would not hold behind a pooler in transaction mode,
    # and migrations have several transactions.
    with closing(db.limited(UNLIMITED).connect()) as holder:
        check_encoding(holder)
        with holder.transaction():
            holder.execute("SELECT pg_advisory_xact_lock(%s)", (MIGRATION,))
            with db.engine.connect() as connection:
                config.attributes["connection"] = connection
                _upgrade(config, connection)


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
