"""Reads access logs in Combined Log Format: which lines are pageviews, of which visitor, and the id of each."""

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

# A quoted field escapes its quotes: \" in Apache, \x22 in nginx. Possessive, so that no line can make it backtrack.
_QUOTED = rb'"((?:[^"\\]++|\\.)*+)"'
_LINE = re.compile(
    rb"(?:[\w.-]+:\d{1,5} )?"  # the virtual host of Debian's vhost_combined; no IPv6 address looks like it
    rb"(?P<address>\S+) \S+ .*? ?"  # the user's name may hold spaces, or be missing
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
    """Why a line is no pageview, as people read it."""

    NOT_GET = "not a GET"
    STATUS = "status not 2xx or 304"
    STATIC_ASSET = "static asset"
    BOT = "bot"
    MALFORMED = "malformed"


class Request(NamedTuple):
    """One line of the log. Texts are as the client sent them, the log's escapes undone; "" = absent."""

    address: str
    time: datetime
    """Aware, in the line's own offset."""
    method: str
    target: str
    status: int
    """0 when the server gave none."""
    referrer: str
    user_agent: str

    @property
    def path(self) -> str:
        """The target without its query, and without the host if it was sent to a proxy."""
        target = self.target.partition("?")[0]
        if target.startswith(("http://", "https://")):
            return "/" + target.split("/", 3)[3] if target.count("/") > 2 else "/"
        return target

    @property
    def skip_reason(self) -> SkipReason | None:
        """Why this is no pageview, if it is none; bots are not looked for here."""
        if self.method != "GET":
            return SkipReason.NOT_GET
        if not (200 <= self.status <= 299 or self.status == 304):
            return SkipReason.STATUS
        if self.path.lower().endswith(STATIC_EXTENSIONS):
            return SkipReason.STATIC_ASSET
        return None

    @property
    def visitor_id(self) -> str:
        """32 hex digits that stand for the address and user agent together.

        The same visitor has the same id in every log. It holds no address, but a guess of both can be checked.
        """
        address = self.address.encode()
        framed = len(address).to_bytes(4, "big") + address + self.user_agent.encode("utf-8", "replace")
        return blake2b(framed, digest_size=16, person=b"footfallvisitor").hexdigest()


def parse_line(line: bytes) -> Request | None:
    """The request that a line without its line break tells of; None when it is malformed.

    Malformed is what is cut off, in another format or over 64 KiB, holds a NUL, or has a time that never was or was
    before 1970.
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
    """Gives every line of one file an id that is the same whenever the file is read.

    Equal lines are requests of their own, so an id also counts how often the line came before. Only the last 250,000
    to 500,000 different lines are remembered (some 60 MB): equal lines show the same second, so they stand close
    together, and two that are further apart are taken for one.
    """

    def __init__(self, remembered: int = 250_000) -> None:
        self._remembered = remembered
        self._recent: dict[bytes, int] = {}
        self._older: dict[bytes, int] = {}

    def next_id(self, line: bytes, time: datetime) -> str:
        """A UUIDv7 of the line's second whose other bits are a hash: ids in order of time keep the index dense."""
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
    """The lines of a plain or gzip file, read as they are asked for, with a bound on memory.

    Opening raises OSError. Reading does not raise: `damage` says what stopped it before the end.
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
        """Each line without its line break. Of one over 64 KiB only the first 64 KiB + 1 bytes are given."""
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
    # strptime is slow and knows the months' names only in the process's own language.
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
        # Written in another encoding, which nobody can know: the escapes at least can be told apart.
        text = raw.decode("utf-8", "replace")
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _unescape(match: re.Match[bytes]) -> bytes:
    return bytes.fromhex(match[1].decode()) if match[1] else _ESCAPED[match[2]]
