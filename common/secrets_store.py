"""Secrets that all processes share."""

from common.db import Database
from common.page_tokens import PageTokens

_PAGE_TOKEN_SECRET = "SELECT value FROM secrets WHERE name = 'page_tokens'"


def page_tokens(db: Database) -> PageTokens:
    """Page tokens sealed with the secret that the first migration has stored."""

    def load() -> bytes:
        with db.connection() as connection:
            row = connection.execute(_PAGE_TOKEN_SECRET).fetchone()
        assert row is not None, "the schema is not migrated"
        return bytes(row[0])

    return PageTokens(load)
