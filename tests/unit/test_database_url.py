"""Which texts name a database. What cannot be read is tried in tests/integration/test_unfit_databases.py."""

import pytest
from psycopg.conninfo import conninfo_to_dict

from common.database_url import UrlError, plain_url

PASSWORD = "p@ss:w/rd#"


@pytest.mark.parametrize(
    ("text", "password"),
    [
        ("postgresql://u:p%40ss%3Aw%2Frd%23@h:5432/db", PASSWORD),
        ("postgres://u:p%40ss%3Aw%2Frd%23@h:5432/db?sslmode=require", PASSWORD),
        ("postgresql+psycopg://u:p%40ss%3Aw%2Frd%23@h:5432/db", PASSWORD),
        (f"host=h port=5432 user=u password='{PASSWORD}' dbname=db", PASSWORD),
        (f"  host=h port=5432 user=u password={PASSWORD} dbname=db  ", PASSWORD),
        # These cannot be taken for anything else.
        ("postgresql://u:p#1!$&*@h:5432/db", "p#1!$&*"),
        ("postgresql://u:p?1@h:5432/db", "p?1"),
    ],
)
def test_every_form_is_read(text: str, password: str) -> None:
    found = conninfo_to_dict(plain_url(text))
    assert {name: found[name] for name in ("host", "port", "user", "password", "dbname")} == {
        "host": "h",
        "port": "5432",
        "user": "u",
        "password": password,
        "dbname": "db",
    }


@pytest.mark.parametrize(
    "text", ["postgresql:///db?host=/run/postgresql", "postgresql://[::1]:5432/db", "postgresql://a:1,b:2/db", "host=h"]
)
def test_a_password_is_not_needed(text: str) -> None:
    assert plain_url(text) == text


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://u:{PASSWORD}@h/db",
        "postgresql://u:p@ss@h/db",
        "postgresql://u:p/ss@h/db",
        "postgresql://u:1/ss@h/db",
        "postgresql://u:p@ss/rd@h/db",
        "postgresql://u:p?1@ss@h/db",
        "postgresql://u:50%@h/db",
        "postgresql://h:x/db",
        "sqlite:///x",
        "nonsense",
        "host=h nonsense",
    ],
)
def test_what_could_be_misread_is_refused(text: str) -> None:
    """Else a part of the password would be taken for the host, and be shown in an error."""
    with pytest.raises(UrlError):
        plain_url(text)


def test_an_option_is_not_quoted_but_the_one_that_was_meant_is_named() -> None:
    """What libpq takes for the name of an option may be a part of a password."""
    with pytest.raises(UrlError, match="did you mean password") as caught:
        plain_url("host=h pasword=x")
    assert "pasword" not in str(caught.value)
