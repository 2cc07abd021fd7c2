"""Secrets that all processes of the suite share."""

from common.db import Database
from common.page_tokens import PageTokens

_PAGE_TOKEN_SECRET = "SELECT value FROM secrets WHERE name = 'page_tokens'"


def page_tokens(db: Database) -> PageTokens:
    """The sealer of page tokens, with the secret that the migrations made."""

    def load() -> bytes:
        with db.connection() as connection:
            row = connection.execute(_PAGE_TOKEN_SECRET).fetchone()
        assert row is not None, "the schema is not migrated"
        return bytes(row[0])

    return PageTokens(load)
