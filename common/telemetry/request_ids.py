"""The id of a call, by which its error, its log lines and its caller's own logs are found."""

import itertools
import re
import secrets

HEADER = "x-request-id"
"""The metadata key in which a caller may send its own id, and in which the trailers of an error return it."""

_GIVEN = re.compile("[!-~]{1,64}")
"""1–64 visible ASCII characters: no id can break a log line or a header."""

_PROCESS = secrets.token_hex(6)
_numbers = itertools.count(1)


def request_id(given: str | bytes | None) -> str:
    """The caller's id if it is 1–64 visible ASCII characters, else a new one.

    New ids differ in 48 random bits between processes and by a counter within one. That is cheaper than a UUID a call.
    """
    if isinstance(given, str) and _GIVEN.fullmatch(given):
        return given
    return f"{_PROCESS}-{next(_numbers):x}"
