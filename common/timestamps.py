"""Protobuf times ↔ aware datetimes in UTC, kept to the microsecond as Postgres keeps them."""

from datetime import UTC, datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def from_timestamp(value: Timestamp) -> datetime:
    """The instant, cut to the microsecond. Raises ValueError outside the years 1–9999 and for nanos out of range."""
    if not 0 <= value.nanos < 1_000_000_000:
        raise ValueError("nanos must be 0–999,999,999")
    try:
        return EPOCH + timedelta(seconds=value.seconds, microseconds=value.nanos // 1000)
    except OverflowError as error:
        raise ValueError("seconds are outside the years 1–9999") from error


def bound_from_timestamp(value: Timestamp) -> datetime:
    """The instant as a bound for stored times. It is rounded up, because stored times are cut to the microsecond."""
    instant = from_timestamp(value)
    return instant + _MICROSECOND if value.nanos % 1000 else instant


def to_timestamp(value: datetime) -> Timestamp:
    """The instant as a Timestamp."""
    micros = (value - EPOCH) // _MICROSECOND
    return Timestamp(seconds=micros // 1_000_000, nanos=micros % 1_000_000 * 1000)


def to_duration(micros: int) -> Duration:
    """The length, given in µs, as a Duration. It must not be negative."""
    return Duration(seconds=micros // 1_000_000, nanos=micros % 1_000_000 * 1000)


def duration_micros(value: timedelta) -> int:
    """The length in µs."""
    return value // _MICROSECOND
