"""Many rows as parameters of one statement: an array for each column."""

from collections.abc import Mapping

_AS_TEXT = ("uuid", "jsonb")
"""Types whose values are sent as texts, which the statement casts. psycopg would send their text as well."""


def unnest(columns: Mapping[str, str]) -> str:
    """SQL that makes rows of the parameters `%(name)s`, one array for each of `columns` (names and types).

    The arrays are sent in binary form. In text form every element would be searched for characters to escape.
    """
    kinds = ((name, "text" if kind in _AS_TEXT else kind) for name, kind in columns.items())
    return f"unnest({', '.join(f'%({name})b::{kind}[]' for name, kind in kinds)})"
