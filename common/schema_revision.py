"""The revision of a database's schema and its encoding, and whether this release can serve on them."""

from pathlib import Path
from typing import Any

import psycopg

_VERSIONS = Path(__file__).parent / "migrations" / "versions"

# The revision that Alembic has stored; it stores none before the first migration.
_REVISION = "SELECT version_num FROM alembic_version"


class SchemaError(Exception):
    """This release cannot serve on the database; the message says why and what to do."""


def known_revisions() -> list[str]:
    """The revisions that this release knows, ascending; it needs the last."""
    return sorted(file.name.partition("_")[0] for file in _VERSIONS.glob("[0-9]*_*.py"))


def check_encoding(connection: psycopg.Connection[Any]) -> None:
    """Raises SchemaError unless the database stores text in UTF-8."""
    # Told by the server when the connection is opened. With another encoding the answer to a query might not be text.
    encoding = connection.info.parameter_status("server_encoding")
    if encoding not in (None, "UTF8"):
        raise SchemaError(
            f"the database's encoding is {encoding}, and Footfall needs UTF8: make another with "
            "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        )


def check_revision(connection: psycopg.Connection[Any]) -> None:
    """Raises SchemaError unless the schema is at the revision that is needed, in a database in UTF-8, and the errors of
    DatabaseFault."""
    check_encoding(connection)
    *_, needed = known = known_revisions()
    try:
        row = connection.execute(_REVISION).fetchone()
    except psycopg.errors.UndefinedTable:
        row = None
    if row is None:
        raise SchemaError("the database has no schema of Footfall yet; run `footfall migrate` first")
    [found] = row
    if found not in known:
        raise SchemaError(
            f"the schema is at revision {found}, which this release does not know: it is older than the database; "
            "start a newer release"
        )
    if found != needed:
        raise SchemaError(
            f"the schema is at revision {found} and this release needs {needed}; run `footfall migrate` first"
        )
