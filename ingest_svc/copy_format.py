"""The binary form in which events and dedupe keys are sent to Postgres.

Postgres reads it with a sixth less CPU than text (measured: 11.0 instead of 13.2 µs an event, keys and indexes
included), and nothing in it has to be escaped.
"""

import operator
import struct
from collections.abc import Sequence
from itertools import chain

import psycopg
from psycopg.adapt import Buffer, Dumper
from psycopg.pq import Format

from common.event_columns import EVENT_COLUMNS

POSTGRES_EPOCH_MICROS = 946_684_800_000_000
"""2000-01-01 UTC, where Postgres's timestamps begin, in µs since 1970."""

NULL = struct.pack(">i", -1)

_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = struct.pack(">h", -1)
_ROW_START = struct.Struct(">hiqiii")
_INT4 = struct.Struct(">i")
_EVENT_START = struct.Struct(">iqiqi16sih")

_UUID_BYTES = 16
_UUID_OID = psycopg.adapters.types["uuid"].oid
_UUID_ARRAY_OID = psycopg.adapters.types["uuid"].array_oid
_ARRAY_HEADER = struct.Struct(">iiiii")
_UUID_LENGTH = _INT4.pack(_UUID_BYTES)


def text_field(text: str) -> bytes:
    """A text as a field of a row; the empty text is NULL."""
    if not text:
        return NULL
    encoded = text.encode()
    return _INT4.pack(len(encoded)) + encoded


def json_field(text: str) -> bytes:
    """JSON as a field of type jsonb; the empty text is NULL."""
    # The first byte is the version of jsonb's binary form.
    return text_field("\1" + text) if text else NULL


def event_start(occurred_at: int, received_at: int, event_id: bytes, kind: int) -> bytes:
    """The fields from occurred_at to type. Times are in µs since 1970 UTC, the id is the 16 bytes of a UUID."""
    return _EVENT_START.pack(
        8,
        occurred_at - POSTGRES_EPOCH_MICROS,
        8,
        received_at - POSTGRES_EPOCH_MICROS,
        _UUID_BYTES,
        event_id,
        2,
        kind,
    )


def copy_lines(batch_id: int, site_id: int, events: Sequence[bytes]) -> bytes:
    """The rows of one batch. `events` are their fields from occurred_at on, in the order of `ord`."""
    start = _ROW_START.pack(len(EVENT_COLUMNS), 8, batch_id, 4, site_id, 4)
    # The separator of the join is what every row begins with, so that no Python code runs for each row.
    return start + start.join(map(operator.add, map(_INT4.pack, range(len(events))), events))


def copy_data(lines: Sequence[bytes]) -> bytes:
    """The data of a whole COPY: header, rows and trailer."""
    return b"".join(chain((_HEADER,), lines, (_TRAILER,)))


class UuidArray:
    """A parameter of type uuid[], made from the 16 bytes of each UUID."""

    def __init__(self, uuids: Sequence[bytes]) -> None:
        header = _ARRAY_HEADER.pack(1, 0, _UUID_OID, len(uuids), 1)
        self.encoded = b"".join((header, *(_UUID_LENGTH + uuid for uuid in uuids)))


class _UuidArrayDumper(Dumper):
    format = Format.BINARY
    oid = _UUID_ARRAY_OID

    def dump(self, obj: UuidArray) -> Buffer:
        return obj.encoded


psycopg.adapters.register_dumper(UuidArray, _UuidArrayDumper)
