"""The life of a key: made, listed, rotated, ended. Functions take a transaction and never commit."""

from datetime import datetime, timedelta
from typing import Any

import grpc
import sqlalchemy as sa
from footfall.admin.v1 import admin_pb2
from sqlalchemy.dialects.postgresql import insert

from common.errors import CallError, Reason
from common.keys import KeyKind, hash_key, new_key
from common.tables import api_keys, sites
from common.timestamps import to_timestamp

Row = sa.Row[Any]


def add_key(
    connection: sa.Connection,
    kind: KeyKind,
    site_id: int | None,
    name: str,
    now: datetime,
    key: str,
    ttl: timedelta | None,
) -> int:
    """Stores the key's hash; returns its id. Raises CallError (ALREADY_EXISTS) when it is in use anywhere."""
    expires_at = None if ttl is None else now + ttl
    statement = insert(api_keys).values(
        kind=int(kind),
        site_id=site_id,
        name=name,
        key_sha256=hash_key(key),
        created_at=now,
        expires_at=expires_at,
    )
    row = connection.execute(
        statement.on_conflict_do_nothing(index_elements=["key_sha256"]).returning(api_keys.c.key_id)
    ).one_or_none()
    if row is None:
        raise CallError(
            grpc.StatusCode.ALREADY_EXISTS,
            Reason.WRITE_KEY_TAKEN,
            "the key is in use; choose another",
            "write_key",
        )
    return int(row.key_id)


def ensure_admin_key(connection: sa.Connection, key: str, now: datetime) -> None:
    """Stores an admin key unless it is known. A key that was ended stays ended."""
    connection.execute(
        insert(api_keys)
        .values(kind=int(KeyKind.ADMIN), name="first", key_sha256=hash_key(key), created_at=now)
        .on_conflict_do_nothing(index_elements=["key_sha256"])
    )


def rotate_write_key(connection: sa.Connection, site_id: int, now: datetime, grace: timedelta) -> str:
    """A new write key of the site; all its others end at `now + grace` or when they would have, if sooner."""
    end = now + grace
    connection.execute(
        sa.update(api_keys)
        .where(
            api_keys.c.site_id == site_id,
            api_keys.c.kind == int(KeyKind.WRITE),
            sa.or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > end),
        )
        .values(expires_at=end)
    )
    key = new_key(KeyKind.WRITE)
    add_key(connection, KeyKind.WRITE, site_id, "rotated", now, key, None)
    return key


def end_key(connection: sa.Connection, key_id: int, now: datetime) -> Row:
    """Ends the key now unless it has ended; returns its row. Raises CallError (NOT_FOUND)."""
    connection.execute(
        sa.update(api_keys)
        .where(api_keys.c.key_id == key_id, sa.or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > now))
        .values(expires_at=now)
    )
    return get_key(connection, key_id)


def get_key(connection: sa.Connection, key_id: int) -> Row:
    """One key. Raises CallError (NOT_FOUND)."""
    row = connection.execute(_select().where(api_keys.c.key_id == key_id)).one_or_none()
    if row is None:
        raise CallError(grpc.StatusCode.NOT_FOUND, Reason.KEY_NOT_FOUND, f"there is no key {key_id}", "id")
    return row


def list_keys(connection: sa.Connection, site_id: int | None, after: int, now: datetime, count: int) -> list[Row]:
    """Up to `count` keys that have not ended, with ids over `after`, ascending."""
    select = _select().where(
        api_keys.c.key_id > after, sa.or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > now)
    )
    if site_id is not None:
        select = select.where(api_keys.c.site_id == site_id)
    return list(connection.execute(select.order_by(api_keys.c.key_id).limit(count)))


def to_proto(row: Row) -> admin_pb2.ApiKey:
    """What is told of a key."""
    key = admin_pb2.ApiKey(
        id=row.key_id,
        kind=row.kind,
        site=row.slug or "",
        name=row.name,
        create_time=to_timestamp(row.created_at),
    )
    if row.expires_at is not None:
        key.expire_time.CopyFrom(to_timestamp(row.expires_at))
    return key


def _select() -> sa.Select[Any]:
    return sa.select(
        api_keys.c.key_id,
        api_keys.c.kind,
        api_keys.c.name,
        api_keys.c.created_at,
        api_keys.c.expires_at,
        sites.c.slug,
    ).select_from(api_keys.outerjoin(sites))
