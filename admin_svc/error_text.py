"""The text of an error that is stored for operators."""

import psycopg

_MAX_CHARS = 500


def error_text(error: BaseException) -> str:
    """The error's type and message, at most 500 characters. Of an error of the database only the primary message is
    taken, because the rest quotes statements, which clients must not see."""
    message = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return f"{type(error).__name__}: {message or error}".replace("\0", "")[:_MAX_CHARS]
