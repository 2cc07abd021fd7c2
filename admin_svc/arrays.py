"""Many rows in one statement: an array per column."""

from collections.abc import Mapping

_AS_TEXT = ("uuid", "jsonb")
"""Types whose values are texts here; the statement casts them, for psycopg would send nothing but their text either."""


def unnest(columns: Mapping[str, str]) -> str:
    """The rows of the parameters %(name)s of `columns` (names and types), one array each, sent in binary form: as
    text every element would be searched for what has to be escaped."""
    kinds = ((name, "text" if kind in _AS_TEXT else kind) for name, kind in columns.items())
    return f"unnest({', '.join(f'%({name})b::{kind}[]' for name, kind in kinds)})"
