"""SiteSettings ↔ the columns of `sites`, with every bound checked. Pure."""

import re
from collections.abc import Iterable
from typing import Any

from footfall.admin.v1 import admin_pb2
from google.protobuf.duration_pb2 import Duration

from common.errors import Reason, invalid
from common.sites import DEFAULT_RETENTION_DAYS
from common.timestamps import to_duration

MAX_DAYS = 365_000
MAX_LIST = 1_000
MAX_LIST_ITEM_BYTES = 256
MAX_NAME_BYTES = 256
_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_WRITE_KEY = re.compile(r"[\x21-\x7e]{1,256}")
_SECOND = 1_000_000
_DAY = 86_400 * _SECOND

_DEFAULT_SESSION_TIMEOUT = 30 * 60 * _SECOND
_DEFAULT_DEDUPE_RETENTION = _DAY

_DAY_FIELDS = (
    "retention_days",
    "raw_event_retention_days",
    "hourly_rollup_retention_days",
    "daily_rollup_retention_days",
)
_LIST_FIELDS = ("allowed_property_keys", "denied_property_keys", "allowed_origins")
FIELDS = ("session_timeout", "dedupe_retention", "rollup_shard_count", *_DAY_FIELDS, *_LIST_FIELDS)
"""The fields of SiteSettings, as an update mask names them after "settings."."""


def check_slug(field: str, slug: str) -> str:
    """The slug. Raises CallError unless it is one."""
    if not _SLUG.fullmatch(slug):
        raise invalid(
            field,
            Reason.SLUG_INVALID,
            'must be 1–63 of a–z, A–Z, 0–9, "-", "_" and ".", starting with a letter or digit',
        )
    return slug


def check_name(field: str, name: str) -> str:
    """A name for people. Raises CallError when it is too long or holds a NUL character."""
    if len(name.encode()) > MAX_NAME_BYTES:
        raise invalid(field, Reason.FIELD_TOO_LONG, f"is longer than {MAX_NAME_BYTES} bytes")
    if "\0" in name:
        raise invalid(field, Reason.TEXT_HAS_NUL, "holds a NUL character; remove it")
    return name


def check_write_key(key: str) -> str:
    """A write key of the caller's own. Raises CallError unless metadata can carry it."""
    if not _WRITE_KEY.fullmatch(key):
        raise invalid("write_key", Reason.WRITE_KEY_INVALID, "must be 1–256 visible ASCII characters")
    return key


def to_columns(
    settings: admin_pb2.SiteSettings, fields: Iterable[str] = FIELDS, prefix: str = "settings"
) -> dict[str, Any]:
    """The columns for `fields`; an absent field becomes its default. Raises CallError for a value out of bounds."""
    columns: dict[str, Any] = {}
    for field in fields:
        path = f"{prefix}.{field}"
        if field == "session_timeout":
            columns["session_timeout_us"] = (
                _micros(path, settings.session_timeout, _SECOND, 30 * _DAY)
                if settings.HasField("session_timeout")
                else _DEFAULT_SESSION_TIMEOUT
            )
        elif field == "dedupe_retention":
            columns["dedupe_retention_us"] = (
                _micros(path, settings.dedupe_retention, _SECOND, 365 * _DAY)
                if settings.HasField("dedupe_retention")
                else _DEFAULT_DEDUPE_RETENTION
            )
        elif field == "rollup_shard_count":
            count = settings.rollup_shard_count
            if not 0 <= count <= 64:
                raise invalid(path, Reason.VALUE_OUT_OF_RANGE, "must be 1–64, or 0 for the default")
            columns[field] = count or 1
        elif field in _DAY_FIELDS:
            columns[field] = _days(path, settings, field)
        else:
            columns[field] = _texts(path, getattr(settings, field))
    return columns


def to_proto(row: Any) -> admin_pb2.SiteSettings:
    """The settings of a row of `sites`; absent overrides stay absent."""
    settings = admin_pb2.SiteSettings(
        session_timeout=to_duration(row.session_timeout_us),
        dedupe_retention=to_duration(row.dedupe_retention_us),
        rollup_shard_count=row.rollup_shard_count,
        retention_days=row.retention_days or DEFAULT_RETENTION_DAYS,
    )
    for field in _DAY_FIELDS[1:]:
        days = getattr(row, field)
        if days is not None:
            setattr(settings, field, days)
    for field in _LIST_FIELDS:
        getattr(settings, field).extend(getattr(row, field))
    return settings


def micros_of(path: str, value: Duration) -> int:
    """A duration in µs. Raises CallError when it is malformed."""
    if not -999_999_999 <= value.nanos <= 999_999_999 or abs(value.seconds) > 315_576_000_000:
        raise invalid(path, Reason.VALUE_OUT_OF_RANGE, "is not a valid duration")
    return value.seconds * _SECOND + value.nanos // 1000


def _micros(path: str, value: Duration, least: int, most: int) -> int:
    micros = micros_of(path, value)
    if not least <= micros <= most:
        raise invalid(path, Reason.VALUE_OUT_OF_RANGE, f"must be {least // _SECOND} s to {most // _DAY} days")
    return micros


def _days(path: str, settings: admin_pb2.SiteSettings, field: str) -> int | None:
    if not settings.HasField(field):  # type: ignore[arg-type]  # the stub wants a literal
        return None
    days: int = getattr(settings, field)
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
