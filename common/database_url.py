"""The forms in which an operator may name the database. No message here repeats the text: it holds a password."""

import difflib
import re

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Conninfo

_SCHEME = re.compile(r"^postgres(ql)?(\+\w+)?://")
_PORTS = re.compile(r"^(\d*)(,\d*)*$")

_HOW = (
    "give postgresql://user:password@host:5432/database, with @ : / ? # % of a password written as "
    "%40 %3A %2F %3F %23 %25, or host=… port=5432 user=… password='…' dbname=…"
)


class UrlError(ValueError):
    """The text names no database. The message is one line, says what to do and holds nothing of the text."""


def plain_url(text: str) -> str:
    """The URL, without the name of a driver, or the key=value form: what psql and psycopg take.

    Raises UrlError if it is neither, or if it is a URL whose password was not encoded, so that a part of it would be
    taken for the host, the port or the database.
    """
    text = text.strip()
    url = _SCHEME.match(text)
    if url is None and ("://" in text or "=" not in text):
        raise UrlError(f"is no Postgres URL; {_HOW}")
    plain = _SCHEME.sub("postgresql://", text)
    try:
        # libpq's own parser. It opens no connection.
        found = conninfo_to_dict(plain)
    except psycopg.ProgrammingError as error:
        raise UrlError(f"{_problem(str(error))}; {_HOW}") from None
    if not _PORTS.match(str(found.get("port") or "")):
        raise UrlError(f"has a port that is no number; {_HOW}")
    authority, _, rest = plain.partition("://")[2].partition("?")[0].partition("/")
    host = str(found.get("host") or "")
    if url is not None and (authority.count("@") > 1 or "@" in rest or "@" in host[1:]):
        raise UrlError(f"has an @ too many; {_HOW}")
    return plain


def _problem(error: str) -> str:
    # The name that libpq does not know may be a part of a password, so only the known name next to it is told.
    unknown = re.search(r'(?:invalid connection option|invalid URI query parameter):? "(\w+)"', error)
    if unknown is None:
        return "cannot be read"
    known = [option.keyword.decode() for option in Conninfo.get_defaults()]
    near = difflib.get_close_matches(unknown[1], known, 1)
    return "has an option that Postgres does not know" + (f" (did you mean {near[0]}?)" if near else "")
