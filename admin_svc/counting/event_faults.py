"""Which errors an event can cause. Every other error is a fault of the database, the schema, privileges or the code.

An error of the first kind isolates the event and in the end makes it a dead letter (see failed_batches.py). An error
of the second kind stops the job and is shown, for no event is to blame.
"""

import psycopg

_CLASSES = ("22", "54", "P0")
"""Data exceptions, program limits (such as an index row that is too long), and what a trigger raises."""
_CODES = ("23514",)
"""A check constraint that the event violates."""
_NOT_OF_EVENTS = ("22P03", "22P04")
"""Data exceptions of our own binary encoding: the statement or the schema is wrong."""

_OF_PYTHON = (ValueError, ArithmeticError)
"""What values can cause in our own code, such as a number that no column holds."""


def caused_by_events(error: Exception) -> bool:
    """Whether the events that were worked on can be the cause of `error`.

    Decided by the SQLSTATE ("PostgreSQL Error Codes", appendix A of its manual); by the type for errors of Python.
    """
    if isinstance(error, psycopg.Error):
        if error.sqlstate is None:
            # psycopg could not encode a value.
            return isinstance(error, psycopg.DataError)
        if error.sqlstate in _NOT_OF_EVENTS:
            return False
        return error.sqlstate in _CODES or error.sqlstate.startswith(_CLASSES)
    return isinstance(error, _OF_PYTHON)
