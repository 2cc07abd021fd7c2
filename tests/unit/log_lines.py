"""Lines of access logs in Combined Log Format."""

from datetime import UTC, datetime
from pathlib import Path

from cli.access_log import (
    Request,
    parse_line,
)

BROWSER = b"Mozilla/5.0 (X11; Linux x86_64; rv:24.0) Gecko/20140205 Firefox/24.0"
NOON = datetime(2015, 5, 17, 12, tzinfo=UTC)
REAL_LOG = Path(__file__).parents[2] / "examples" / "semicomplete-2015-05.access.log.gz"


def line(
    *,
    client: bytes = b"192.0.2.1 - -",
    time: bytes = b"17/May/2015:10:05:03 +0000",
    request: bytes = b"GET /blog/ HTTP/1.1",
    status: bytes = b"200",
    referrer: bytes = b"-",
    user_agent: bytes = BROWSER,
) -> bytes:
    return b'%s [%s] "%s" %s 123 "%s" "%s"' % (client, time, request, status, referrer, user_agent)


def parsed(text: bytes) -> Request:
    request = parse_line(text)
    assert request is not None
    return request
