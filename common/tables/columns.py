"""Types and a helper that the declarations of tables share."""

from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData()

time = sa.DateTime(timezone=True)
key = sa.Text(collation="C")
"""Keys are compared and sorted by bytes, whatever the locale of the database is."""


def required(name: str, kind: Any, default: str | None = None) -> sa.Column[Any]:
    """A column that is never NULL; `default` is an SQL expression."""
    return sa.Column(name, kind, nullable=False, server_default=sa.text(default) if default else None)
