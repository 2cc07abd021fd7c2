"""Many rows in one statement: a parameter of an array for each column."""

from collections.abc import Mapping

_AS_TEXT = ("uuid", "jsonb")
"""Types whose values are texts here; the statement casts them, for psycopg would send only their text as well."""


def unnest(columns: Mapping[str, str]) -> str:
    """SQL for the rows of the parameters `%(name)s` of `columns` (names and types), one array for each column.

    The arrays are sent in binary form: as text every element would be searched for what has to be escaped.
    """
    kinds = ((name, "text" if kind in _AS_TEXT else kind) for name, kind in columns.items())
    return f"unnest({', '.join(f'%({name})b::{kind}[]' for name, kind in kinds)})"
