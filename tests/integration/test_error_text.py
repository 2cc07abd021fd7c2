"""What is kept of an error says what went wrong and quotes no statement."""

import psycopg
import pytest

from admin_svc.error_text import error_text
from common.db import plain_url


def test_an_error_of_the_database_is_told_without_its_statement(postgres_url: str) -> None:
    """Postgres says which line of which statement it did not like; no client is shown that."""
    with psycopg.connect(plain_url(postgres_url)) as connection, pytest.raises(psycopg.Error) as caught:
        connection.execute("SELECT secret_column FROM pg_class")
    assert "FROM pg_class" in str(caught.value)
    assert error_text(caught.value) == 'UndefinedColumn: column "secret_column" does not exist'


def test_any_other_error_is_told_whole_but_short_and_without_nul() -> None:
    """So that it can be stored, whatever it says."""
    assert error_text(ValueError("a\0b")) == "ValueError: ab"
    assert len(error_text(ValueError("x" * 10_000))) == 500
