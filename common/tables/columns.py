"""What the tables are declared with."""

from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData()

time = sa.DateTime(timezone=True)
key = sa.Text(collation="C")
"""Keys are ranked and compared by bytes, everywhere alike and whatever the database's locale is."""


def required(name: str, kind: Any, default: str | None = None) -> sa.Column[Any]:
    """A column that is never NULL; `default` is an SQL expression."""
    return sa.Column(name, kind, nullable=False, server_default=sa.text(default) if default else None)
