"""Keys are created, listed, rotated and ended. Functions run in the caller's transaction and never commit."""

from datetime import datetime, timedelta
from typing import Any, NamedTuple

import grpc
import psycopg
from psycopg.rows import class_row

from common.errors import CallError, Reason
from common.keys.key import KeyKind, hash_key, new_key

# Stores a key unless it is stored already. Returns its id.
_INSERT = """
INSERT INTO api_keys (kind, site_id, name, key_sha256, created_at, expires_at)
VALUES (%(kind)s, %(site_id)s, %(name)s, %(key_sha256)s, %(now)s, %(expires_at)s)
ON CONFLICT (key_sha256) DO NOTHING RETURNING key_id
"""

# Ends, at a time, every write key of a site that would end later.
_END_WRITE_KEYS = f"""
UPDATE api_keys SET expires_at = %(end)s
WHERE site_id = %(site_id)s AND kind = {int(KeyKind.WRITE)} AND (expires_at IS NULL OR expires_at > %(end)s)
"""

# Ends one key, unless it has ended already.
_END = """
UPDATE api_keys SET expires_at = %(now)s WHERE key_id = %(key_id)s AND (expires_at IS NULL OR expires_at > %(now)s)
"""

# The columns of ApiKey.
_SELECT = """
SELECT k.key_id, k.kind, k.name, k.created_at, k.expires_at, k.last_used_at, s.slug
FROM api_keys k LEFT JOIN sites s ON s.site_id = k.site_id
"""

# One key.
_BY_ID = f"{_SELECT} WHERE k.key_id = %(key_id)s"
# A page of the keys that have not ended, after an id, of one site or of all.
_LIST = f"""
{_SELECT} WHERE k.key_id > %(after)s AND (k.expires_at IS NULL OR k.expires_at > %(now)s)
  AND (%(site_id)s::int IS NULL OR k.site_id = %(site_id)s)
ORDER BY k.key_id LIMIT %(rows)s
"""

Connection = psycopg.Connection[Any]


class ApiKey(NamedTuple):
    """A stored key. Of the key itself only the hash is stored."""

    key_id: int
    kind: int
    name: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    slug: str | None
    """The slug of its site; None for a key of all sites."""


def add_key(
    connection: Connection,
    kind: KeyKind,
    site_id: int | None,
    name: str,
    now: datetime,
    key: str,
    ttl: timedelta | None,
) -> int:
    """Stores the key's hash and returns the key's id. Raises CallError (ALREADY_EXISTS) if any site uses the key."""
    row = _insert(connection, kind, site_id, name, now, key, ttl)
    if row is None:
        raise CallError(
            grpc.StatusCode.ALREADY_EXISTS,
            Reason.WRITE_KEY_TAKEN,
            "the key is in use; choose another",
            "write_key",
        )
    return row


def ensure_admin_key(connection: Connection, key: str, now: datetime) -> None:
    """Stores an admin key unless it is stored already. A key that was ended stays ended."""
    _insert(connection, KeyKind.ADMIN, None, "first", now, key, None)


def rotate_write_key(connection: Connection, site_id: int, now: datetime, grace: timedelta) -> str:
    """Creates a write key of the site. Its other write keys end at `now + grace`, unless they end sooner."""
    connection.execute(_END_WRITE_KEYS, {"site_id": site_id, "end": now + grace})
    key = new_key(KeyKind.WRITE)
    add_key(connection, KeyKind.WRITE, site_id, "rotated", now, key, None)
    return key


def end_key(connection: Connection, key_id: int, now: datetime) -> ApiKey:
    """Ends the key now, unless it has ended already, and returns it. Raises CallError (NOT_FOUND)."""
    connection.execute(_END, {"key_id": key_id, "now": now})
    return get_key(connection, key_id)


def get_key(connection: Connection, key_id: int) -> ApiKey:
    """One key. Raises CallError (NOT_FOUND)."""
    with connection.cursor(row_factory=class_row(ApiKey)) as cursor:
        row = cursor.execute(_BY_ID, {"key_id": key_id}).fetchone()
    if row is None:
        raise CallError(grpc.StatusCode.NOT_FOUND, Reason.KEY_NOT_FOUND, f"there is no key {key_id}", "id")
    return row


def list_keys(connection: Connection, site_id: int | None, after: int, now: datetime, count: int) -> list[ApiKey]:
    """Up to `count` keys that have not ended, with ids above `after`, ascending; of one site or, with None, of all."""
    parameters = {"site_id": site_id, "after": after, "now": now, "rows": count}
    with connection.cursor(row_factory=class_row(ApiKey)) as cursor:
        return cursor.execute(_LIST, parameters).fetchall()


def _insert(
    connection: Connection,
    kind: KeyKind,
    site_id: int | None,
    name: str,
    now: datetime,
    key: str,
    ttl: timedelta | None,
) -> int | None:
    row = connection.execute(
        _INSERT,
        {
            "kind": int(kind),
            "site_id": site_id,
            "name": name,
            "key_sha256": hash_key(key),
            "now": now,
            "expires_at": None if ttl is None else now + ttl,
        },
    ).fetchone()
    return None if row is None else int(row[0])
