"""What is kept of an error for operators."""

import psycopg

_MAX_CHARS = 500


def error_text(error: BaseException) -> str:
    """Its kind and its message, at most 500 characters. Of the database's errors only the message proper: what
    follows it quotes statements, which no client is shown."""
    message = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return f"{type(error).__name__}: {message or error}".replace("\0", "")[:_MAX_CHARS]
