"""The settings of a site: checks of their bounds, and their columns of `sites`. Pure."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from common.errors import Reason, invalid

MAX_DAYS = 365_000
MAX_EVENTS_PER_SECOND = 1_000_000
MAX_LIST = 1_000
MAX_LIST_ITEM_BYTES = 256
MAX_NAME_BYTES = 256
_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
# Nobody guesses 16 characters, unless they are words.
_WRITE_KEY = re.compile(r"[\x21-\x7e]{16,256}")
_SECOND = 1_000_000
_DAY = 86_400 * _SECOND

# Column, default and largest value in µs of each setting that is a duration. The smallest value is 1 s.
_DURATIONS = {
    "session_timeout": ("session_timeout_us", 30 * 60 * _SECOND, 30 * _DAY),
    "dedupe_retention": ("dedupe_retention_us", _DAY, 365 * _DAY),
}
DURATION_FIELDS = tuple(_DURATIONS)
DAY_FIELDS = (
    "retention_days",
    "raw_event_retention_days",
    "hourly_rollup_retention_days",
    "daily_rollup_retention_days",
)
LIST_FIELDS = ("allowed_property_keys", "denied_property_keys", "allowed_origins")
NUMBER_FIELDS = ("rollup_shard_count", "max_events_per_second")
"""They are never absent; 0 = the default."""
FIELDS = (*DURATION_FIELDS, *NUMBER_FIELDS, *DAY_FIELDS, *LIST_FIELDS)
"""The fields of SiteSettings. An update mask names them with "settings." before them."""


def check_slug(slug: str, field: str = "slug") -> str:
    """The slug. Raises CallError if it is not valid; the error names the request's `field`."""
    if not _SLUG.fullmatch(slug):
        raise invalid(
            field,
            Reason.SLUG_INVALID,
            'must be 1–63 of a–z, A–Z, 0–9, "-", "_" and ".", starting with a letter or digit',
        )
    return slug


def check_name(field: str, name: str) -> str:
    """A name to display. Raises CallError if it is longer than 256 bytes or holds a NUL character."""
    if len(name.encode()) > MAX_NAME_BYTES:
        raise invalid(field, Reason.FIELD_TOO_LONG, f"is longer than {MAX_NAME_BYTES} bytes")
    if "\0" in name:
        raise invalid(field, Reason.TEXT_HAS_NUL, "holds a NUL character; remove it")
    return name


def check_write_key(key: str) -> str:
    """A write key that the caller has chosen. Raises CallError if it is short or cannot be sent in metadata."""
    if not _WRITE_KEY.fullmatch(key):
        raise invalid(
            "write_key",
            Reason.WRITE_KEY_INVALID,
            "must be 16–256 visible ASCII characters; leave it empty to get a generated one",
        )
    return key


def to_columns(values: Mapping[str, Any], prefix: str = "settings") -> dict[str, Any]:
    """The columns for the fields of SiteSettings in `values`. None (= absent) becomes the default of the field.

    Durations are in µs. `prefix` is the path of the fields in the request. Raises CallError for a value out of bounds.
    """
    columns: dict[str, Any] = {}
    for field, value in values.items():
        path = f"{prefix}.{field}"
        if field in _DURATIONS:
            column, default, most = _DURATIONS[field]
            columns[column] = default if value is None else _micros(path, value, most)
        elif field == "rollup_shard_count":
            if not 0 <= value <= 64:
                raise invalid(path, Reason.VALUE_OUT_OF_RANGE, "must be 1–64, or 0 for the default")
            columns[field] = value or 1
        elif field == "max_events_per_second":
            if not 0 <= value <= MAX_EVENTS_PER_SECOND:
                raise invalid(path, Reason.VALUE_OUT_OF_RANGE, f"must be 1–{MAX_EVENTS_PER_SECOND}, or 0 for no limit")
            columns[field] = value
        elif field in DAY_FIELDS:
            columns[field] = None if value is None else _days(path, value)
        else:
            columns[field] = _texts(path, value)
    return columns


def _micros(path: str, micros: int, most: int) -> int:
    if not _SECOND <= micros <= most:
        raise invalid(path, Reason.VALUE_OUT_OF_RANGE, f"must be 1 s to {most // _DAY} days")
    return micros


def _days(path: str, days: int) -> int:
    if not 1 <= days <= MAX_DAYS:
        raise invalid(path, Reason.VALUE_OUT_OF_RANGE, f"must be 1–{MAX_DAYS} days; leave it absent for the default")
    return days


def _texts(path: str, values: Iterable[str]) -> list[str]:
    listed = list(dict.fromkeys(values))
    if len(listed) > MAX_LIST:
        raise invalid(path, Reason.VALUE_OUT_OF_RANGE, f"holds {len(listed)} entries, {MAX_LIST} are allowed")
    for index, value in enumerate(listed):
        if not value or len(value.encode()) > MAX_LIST_ITEM_BYTES or "\0" in value:
            raise invalid(
                f"{path}[{index}]",
                Reason.VALUE_OUT_OF_RANGE,
                f"must be 1–{MAX_LIST_ITEM_BYTES} bytes without NUL characters",
            )
    return listed
