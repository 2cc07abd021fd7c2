"""Reads access logs in Combined Log Format: which lines are pageviews, their visitors, and their ids."""

import gzip
import re
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self, cast
from uuid import UUID

MAX_LINE_BYTES = 64 * 1024

STATIC_EXTENSIONS = (
    *(".css", ".js", ".map", ".png", ".jpg", ".jpeg", ".gif", ".ico", ".svg", ".webp"),
    *(".woff", ".woff2", ".ttf", ".eot", ".pdf", ".txt", ".xml", ".gz", ".zip"),
)

# Quotes in a quoted field are escaped: \" in Apache, \x22 in nginx. The quantifiers are possessive, so that no line can
# cause backtracking.
_QUOTED = rb'"((?:[^"\\]++|\\.)*+)"'
_LINE = re.compile(
    rb"(?:[\w.-]+:\d{1,5} )?"  # the virtual host of Debian's vhost_combined; no IPv6 address matches this
    rb"(?P<address>\S+) \S+ .*? ?"  # the user's name may have spaces or be missing
    rb"\[(?P<time>\d\d/[A-Za-z]{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4})\] "
    + _QUOTED
    + rb" (?P<status>\d{3}|-) (?:\d+|-) "
    + _QUOTED
    + rb" "
    + _QUOTED
    + rb"(?: |$)"  # further fields, such as the time taken, do not matter
)
_ESCAPE = re.compile(rb'\\(?:x([0-9A-Fa-f]{2})|(["\\bnrtv]))')
_ESCAPED = {b'"': b'"', b"\\": b"\\", b"b": b"\b", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class SkipReason(StrEnum):
    """Why a line is not a pageview, as shown to people."""

    NOT_GET = "not a GET"
    STATUS = "status not 2xx or 304"
    STATIC_ASSET = "static asset"
    BOT = "bot"
    MALFORMED = "malformed"


class Request(NamedTuple):
    """One line of the log. Texts are as the client sent them, without the escapes of the log; "" = absent."""

    address: str
    time: datetime
    """Aware, with the offset of the line."""
    method: str
    target: str
    status: int
    """0 if the line has none."""
    referrer: str
    user_agent: str

    @property
    def path(self) -> str:
        """The target without its query, and without scheme and host, which requests to a proxy have."""
        target = self.target.partition("?")[0]
        if target.startswith(("http://", "https://")):
            return "/" + target.split("/", 3)[3] if target.count("/") > 2 else "/"
        return target

    @property
    def skip_reason(self) -> SkipReason | None:
        """Why this is not a pageview; None if it is one. Bots are not recognised here."""
        if self.method != "GET":
            return SkipReason.NOT_GET
        if not (200 <= self.status <= 299 or self.status == 304):
            return SkipReason.STATUS
        if self.path.lower().endswith(STATIC_EXTENSIONS):
            return SkipReason.STATIC_ASSET
        return None

    @property
    def visitor_id(self) -> str:
        """32 hex digits: a hash of address and user agent together.

        The same visitor has the same id in every log. The id does not contain the address, but a guess of both can be
        checked against it.
        """
        address = self.address.encode()
        framed = len(address).to_bytes(4, "big") + address + self.user_agent.encode("utf-8", "replace")
        return blake2b(framed, digest_size=16, person=b"footfallvisitor").hexdigest()


def parse_line(line: bytes) -> Request | None:
    """The request of a line without its line break; None if the line is malformed.

    A line is malformed if it is cut off, in another format or longer than 64 KiB, holds a NUL, or has a time that does
    not exist or is before 1970.
    """
    match = _LINE.match(line) if len(line) <= MAX_LINE_BYTES else None
    if match is None or b"\0" in line:
        return None
    address, when, request, status, referrer, user_agent = match.groups()
    try:
        time = _parse_time(when.decode())
    except ValueError:
        return None
    method, _, target = _text(request).partition(" ")
    if " HTTP/" in target:
        target = target.rpartition(" HTTP/")[0]
    return Request(
        address=_text(address),
        time=time,
        method=method,
        target=target.strip(" "),
        status=0 if status == b"-" else int(status),
        referrer="" if referrer == b"-" else _text(referrer),
        user_agent="" if user_agent == b"-" else _text(user_agent),
    )


class EventIds:
    """Gives every line of a file an id that is the same each time the file is read.

    Equal lines are different requests, so the id also depends on how often the line came before. Only the last 250,000
    to 500,000 different lines are remembered (some 60 MB). Equal lines have the same second, so they are close
    together; two that are further apart get the same id.
    """

    def __init__(self, remembered: int = 250_000) -> None:
        self._remembered = remembered
        self._recent: dict[bytes, int] = {}
        self._older: dict[bytes, int] = {}

    def next_id(self, line: bytes, time: datetime) -> str:
        """A UUIDv7 of the line's second; the other bits are a hash. Ids in order of time keep the index dense."""
        digest = blake2b(line, digest_size=16, person=b"footfall-line").digest()
        occurrence = self._recent.get(digest, self._older.get(digest, 0))
        self._recent[digest] = occurrence + 1
        if len(self._recent) >= self._remembered:
            self._older, self._recent = self._recent, {}
        numbered = digest + occurrence.to_bytes(8, "big")
        random = int.from_bytes(blake2b(numbered, digest_size=16, person=b"footfall-event").digest(), "big")
        milliseconds = max(0, (time - _EPOCH) // timedelta(milliseconds=1))
        head = milliseconds << 16 | 7 << 12 | random >> 116
        return str(UUID(int=head << 64 | 2 << 62 | random & (1 << 62) - 1))


class LogFile:
    """The lines of a plain or gzip file, read while they are iterated, in bounded memory.

    Opening raises OSError. Reading does not raise; `damage` says what ended it early.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self.size = path.stat().st_size
        self.damage = ""
        """Why the file could not be read to its end, if it could not."""
        self._lines = cast(BinaryIO, self._file)
        if self._file.peek(2)[:2] == b"\x1f\x8b":
            self._lines = cast(BinaryIO, gzip.GzipFile(fileobj=self._file, mode="rb"))

    @property
    def position(self) -> int:
        """Bytes of the file read so far; compressed bytes of a gzip file."""
        return self._file.tell() if self._file.seekable() else 0

    def __iter__(self) -> Iterator[bytes]:
        """Each line without its line break. A longer line than 64 KiB is cut to 64 KiB + 1 bytes."""
        try:
            while line := self._lines.readline(MAX_LINE_BYTES + 1):
                yield line.rstrip(b"\r\n")
                while len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
                    line = self._lines.readline(MAX_LINE_BYTES + 1)
        except (OSError, EOFError, zlib.error) as error:
            self.damage = str(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _parse_time(text: str) -> datetime:
    # strptime is slow, and it needs the names of months in the language of the process.
    year, month, day = int(text[7:11]), _MONTHS.index(text[3:6].capitalize()) + 1, int(text[:2])
    if not 1970 <= year < 9999:
        raise ValueError(text)
    return datetime(year, month, day, int(text[12:14]), int(text[15:17]), int(text[18:20]), tzinfo=_zone(text[21:]))


@lru_cache(maxsize=64)
def _zone(offset: str) -> timezone:
    ahead = timedelta(hours=int(offset[1:3]), minutes=int(offset[3:5]))
    return timezone(-ahead if offset[0] == "-" else ahead)


def _text(raw: bytes) -> str:
    if b"\\" not in raw:
        return raw.decode("utf-8", "replace")
    unescaped = _ESCAPE.sub(_unescape, raw)
    try:
        text = unescaped.decode()
    except UnicodeDecodeError:
        # The text is in another encoding, which is not known. The escapes are kept, so that bytes stay distinct.
        text = raw.decode("utf-8", "replace")
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _unescape(match: re.Match[bytes]) -> bytes:
    return bytes.fromhex(match[1].decode()) if match[1] else _ESCAPED[match[2]]
