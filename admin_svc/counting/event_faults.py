"""The errors that an event can cause. All others are faults of the database, the schema, privileges or the code.

After an error of the first kind the event is isolated, and in the end it becomes a dead letter (see failed_batches.py).
An error of the second kind ends the run of the job and is shown to operators. It changes nothing about the events.
"""

import psycopg

_CLASSES = ("22", "54", "P0")
"""Classes: data exceptions, program limits (such as an index row that is too long), and errors raised by triggers."""
_CODES = ("23514",)
"""A check constraint is violated."""
_NOT_OF_EVENTS = ("22P03", "22P04")
"""Data exceptions of Footfall's own binary encoding: the statement or the schema is wrong."""

_OF_PYTHON = (ValueError, ArithmeticError)
"""Errors that values can cause in Footfall's own code, such as a number that is too large for its column."""


def caused_by_events(error: Exception) -> bool:
    """Whether one of the events worked on can be the cause of `error`.

    The SQLSTATE decides ("PostgreSQL Error Codes", appendix A of the manual); for errors of Python, the type does.
    """
    if isinstance(error, psycopg.Error):
        if error.sqlstate is None:
            # psycopg could not encode a value.
            return isinstance(error, psycopg.DataError)
        if error.sqlstate in _NOT_OF_EVENTS:
            return False
        return error.sqlstate in _CODES or error.sqlstate.startswith(_CLASSES)
    return isinstance(error, _OF_PYTHON)
