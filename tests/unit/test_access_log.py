"""Which lines of an access log are pageviews, and whose."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.access_log import (
    MAX_LINE_BYTES,
    STATIC_EXTENSIONS,
    EventIds,
    LogFile,
    SkipReason,
    parse_line,
)
from tests.unit.log_lines import BROWSER, NOON, REAL_LOG, line, parsed


def test_every_line_of_the_real_log_is_read_but_the_one_that_is_cut_off() -> None:
    """9,999 of 10,000 lines are well-formed; the other ends inside its user agent."""
    with LogFile(REAL_LOG) as log:
        lines = list(log)
        assert log.position == log.size
        assert not log.damage
    malformed = [text for text in lines if parse_line(text) is None]
    assert len(lines) == 10_000
    assert len(malformed) == 1
    assert malformed[0].endswith(b"+http://www.google.com/bot.html")


def test_a_line_gives_what_the_client_sent() -> None:
    """All fields stand in their places; "-" means absent."""
    request = parsed(line(request=b"GET /a%20b?x=1&y=%2F HTTP/1.1", referrer=b"http://example.com/?q=1"))
    assert request.address == "192.0.2.1"
    assert (request.method, request.target, request.status) == ("GET", "/a%20b?x=1&y=%2F", 200)
    assert request.path == "/a%20b"
    assert request.referrer == "http://example.com/?q=1"
    assert request.user_agent == BROWSER.decode()
    assert parsed(line(user_agent=b"-", referrer=b"-"))[-2:] == ("", "")


@pytest.mark.parametrize(
    ("offset", "hour"), [(b"+0000", 10), (b"-0700", 17), (b"+0530", 4), (b"+1400", -4), (b"-0030", 10)]
)
def test_the_time_is_of_the_lines_own_offset(offset: bytes, hour: int) -> None:
    """An instant is the line's clock minus the line's offset."""
    minutes = {b"+0530": 35, b"-0030": 35}.get(offset, 5)
    expected = datetime(2015, 5, 17, tzinfo=UTC) + timedelta(hours=hour, minutes=minutes, seconds=3)
    assert parsed(line(time=b"17/May/2015:10:05:03 " + offset)).time == expected


@pytest.mark.parametrize(
    "client",
    [
        b"2001:db8::1 - -",
        b"::1 - frank",
        b"192.0.2.1 - Jane van Doe",
        b"192.0.2.1 ident user [admin]",
        b"192.0.2.1 - ",
        b"host.example.com - -",
    ],
)
def test_clients_of_every_kind_are_read(client: bytes) -> None:
    """IPv6, host names, user names that are missing, hold spaces or brackets."""
    assert parsed(line(client=client)).address == client.split()[0].decode()


def test_a_virtual_host_in_front_is_not_taken_for_the_client() -> None:
    """Debian's vhost_combined format puts host:port first."""
    assert parsed(line(client=b"www.example.com:443 192.0.2.1 - -")).address == "192.0.2.1"


def test_fields_after_the_user_agent_do_not_matter() -> None:
    """Servers add the time taken, a request id and the like."""
    assert parsed(line() + b' 0.003 "id"') == parsed(line())


def test_escapes_of_the_log_are_undone() -> None:
    """Quotes, backslashes and bytes come back as the client sent them, in Apache's and nginx's way."""
    request = parsed(line(user_agent=rb"a \"b\" \\c\\ \x22d\x22", referrer=rb"/\xc3\xa4\t\q"))
    assert request.user_agent == 'a "b" \\c\\ "d"'
    assert request.referrer == "/ä\t\\q"


def test_text_of_an_unknown_encoding_is_kept_apart_and_never_holds_a_nul() -> None:
    """Escapes that make no UTF-8 stay escapes; raw bytes that are none, and escaped NULs, are replaced."""
    assert parsed(line(referrer=rb"/\xe4\xe5")).referrer == r"/\xe4\xe5"
    assert parsed(line(referrer=b"/\xe4\xe5")).referrer == "/\ufffd\ufffd"
    assert parsed(line(referrer=rb"/\x00")).referrer == "/\ufffd"


@pytest.mark.parametrize(
    ("request_line", "method", "path"),
    [
        (b"-", "-", ""),
        (b"", "", ""),
        (rb"\x16\x03\x01\x00", "\x16\x03\x01\ufffd", ""),
        (b"GET /", "GET", "/"),
        (b"GET /two words HTTP/1.0", "GET", "/two words"),
        (b"GET /?a HTTP/1.0?b HTTP/2.0", "GET", "/"),
        (b"GET http://example.com/x/y?z HTTP/1.1", "GET", "/x/y"),
        (b"GET http://example.com HTTP/1.1", "GET", "/"),
        (b"OPTIONS * HTTP/1.1", "OPTIONS", "*"),
    ],
)
def test_odd_request_lines_are_requests_all_the_same(request_line: bytes, method: str, path: str) -> None:
    """The log's line is well-formed whatever the client asked."""
    request = parsed(line(request=request_line))
    assert (request.method, request.path) == (method, path)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\x80\x81\xff",
        line()[:-1],
        line().rpartition(b' "')[0],
        line(client=b"192.0.2.1"),
        line(time=b"32/May/2015:10:05:03 +0000"),
        line(time=b"17/Foo/2015:10:05:03 +0000"),
        line(time=b"17/May/1969:10:05:03 +0000"),
        line(time=b"17/May/2015:10:05:03 +9900"),
        line(time=b"17/May/2015:10:05:03"),
        line(status=b"20"),
        line(referrer=b"\0"),
        line(user_agent=b'a "b" c'),
        line(user_agent=b"x" * MAX_LINE_BYTES),
    ],
)
def test_what_is_no_line_of_the_format_is_malformed(text: bytes) -> None:
    """Cut off, binary, with a NUL, a time that never was, quotes that are not escaped, or too long."""
    assert parse_line(text) is None


@given(st.binary(max_size=300), st.integers(0, 200), st.integers(0, 200))
def test_no_bytes_make_the_parser_raise(noise: bytes, start: int, length: int) -> None:
    """Whatever stands in a log, the parser answers, and its texts can be sent as UTF-8 without a NUL."""
    text = line(request=b"GET /a HTTP/1.1" + noise[:20])
    request = parse_line(text[:start] + noise + text[start + length :])
    for field in (request.path, request.referrer, request.user_agent) if request else ():
        assert "\0" not in field
        field.encode()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, None),
        ({"status": b"204"}, None),
        ({"status": b"304"}, None),
        ({"status": b"301"}, SkipReason.STATUS),
        ({"status": b"199"}, SkipReason.STATUS),
        ({"status": b"404"}, SkipReason.STATUS),
        ({"status": b"-"}, SkipReason.STATUS),
        ({"request": b"HEAD / HTTP/1.1"}, SkipReason.NOT_GET),
        ({"request": b"get / HTTP/1.1"}, SkipReason.NOT_GET),
        ({"request": b"POST /a.css HTTP/1.1", "status": b"404"}, SkipReason.NOT_GET),
        ({"request": b"GET /A.CsS HTTP/1.1"}, SkipReason.STATIC_ASSET),
        ({"request": b"GET /a.tar.gz?b=c HTTP/1.1"}, SkipReason.STATIC_ASSET),
        ({"request": b"GET /a?file=b.css HTTP/1.1"}, None),
        ({"request": b"GET /a.css/ HTTP/1.1"}, None),
        ({"request": b"GET /css HTTP/1.1"}, None),
    ],
)
def test_a_pageview_is_a_get_that_worked_and_is_no_asset(fields: dict[str, bytes], reason: SkipReason | None) -> None:
    """Method, then status, then the end of the path without its query decide."""
    assert parsed(line(**fields)).skip_reason is reason


@pytest.mark.parametrize("extension", STATIC_EXTENSIONS)
def test_every_listed_extension_is_an_asset_in_any_case(extension: str) -> None:
    """Upper case does not make a page of an image."""
    for spelled in (extension, extension.upper(), extension.title()):
        assert parsed(line(request=b"GET /x%s HTTP/1.1" % spelled.encode())).skip_reason is SkipReason.STATIC_ASSET


def test_a_visitor_is_an_address_with_a_user_agent_and_nothing_else() -> None:
    """The id depends on both, on nothing else, and never on where one ends and the other begins."""
    one = parsed(line(client=b"192.0.2.1 - -", user_agent=b"1agent"))
    same = parsed(line(client=b"192.0.2.1 - jane", request=b"GET /other HTTP/1.1", user_agent=b"1agent"))
    shifted = parsed(line(client=b"192.0.2.11 - -", user_agent=b"agent"))
    assert one.visitor_id == same.visitor_id != shifted.visitor_id
    assert len(one.visitor_id) == 32


def test_equal_lines_are_requests_of_their_own_and_reading_again_gives_the_same_ids() -> None:
    """Ids repeat from one reading to the next and within one reading never do."""
    lines = [line(), line(), line(referrer=b"/x"), line()]

    def read() -> list[str]:
        ids = EventIds()
        return [ids.next_id(text, parsed(text).time) for text in lines]

    first = read()
    assert len(set(first)) == 4
    assert read() == first


def test_event_ids_are_uuids_in_the_order_of_time() -> None:
    """A UUIDv7 that begins with the line's millisecond."""
    ids = EventIds()
    found = [UUID(ids.next_id(b"line %d" % second, NOON + timedelta(seconds=second))) for second in range(100)]
    assert found == sorted(found)
    assert all(event_id.version == 7 and event_id.variant == "specified in RFC 4122" for event_id in found)
    assert found[0].int >> 80 == NOON.timestamp() * 1000


def test_event_ids_remember_a_bounded_number_of_lines() -> None:
    """A line is known among the last `remembered` different ones; the memory holds no more than twice as many."""
    ids = EventIds(remembered=10)
    first = ids.next_id(b"x", NOON)
    for number in range(9):
        ids.next_id(b"%d" % number, NOON)
    assert ids.next_id(b"x", NOON) != first
    for number in range(100):
        ids.next_id(b"again %d" % number, NOON)
    assert ids.next_id(b"x", NOON) == first
