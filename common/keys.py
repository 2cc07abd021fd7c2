"""Write, read and admin keys: stored only as SHA-256 hashes, looked up through a cache of at most 5 s."""

import asyncio
import hashlib
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

import grpc
from cachetools import TTLCache

from common.calls.call import current_call
from common.clock import Clock
from common.db import Database
from common.errors import CallError, Reason, quoted
from common.key_use import KeyUse
from common.sites import COLUMNS, Site

CACHE_SECONDS = 4.0
"""A second less than the 5 s promised, for the time that a look-up takes."""

_FIND_KEY = f"""
SELECT k.key_id, k.kind, k.expires_at, {COLUMNS}
FROM api_keys k LEFT JOIN sites s ON s.site_id = k.site_id
WHERE k.key_sha256 = %s
"""


UNKNOWN_SECONDS = 1.0
"""For how long an unknown key is not looked up again."""


class KeyKind(IntEnum):
    """What a key may do; the numbers of the proto enum."""

    WRITE = 1
    READ = 2
    ADMIN = 3


_PREFIX = {KeyKind.WRITE: "fw_", KeyKind.READ: "fr_", KeyKind.ADMIN: "fa_"}


def new_key(kind: KeyKind) -> str:
    """A new key of 256 random bits; its prefix shows its kind."""
    return _PREFIX[kind] + secrets.token_urlsafe(32)


def hash_key(key: str) -> bytes:
    """The form in which a key is stored. Keys are random, so a fast hash without salt is enough."""
    return hashlib.sha256(key.encode()).digest()


@dataclass(frozen=True, slots=True)
class Key:
    """A key that a caller sent. `site` is None for a key of all sites."""

    key_id: int
    kind: KeyKind
    expires_at: datetime | None
    site: Site | None

    def authorize_site(self, slug: str) -> None:
        """Raises CallError unless the key may read the site. The error does not tell whether the site exists."""
        if self.site is not None and self.site.slug != slug:
            raise CallError(
                grpc.StatusCode.PERMISSION_DENIED,
                Reason.KEY_SITE_WRONG,
                f"the key is not for site {quoted(slug)}",
                "site",
            )


class KeyRing:
    """Finds keys by hash. A key that was ended by another process is accepted for at most 5 s more."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._cache: TTLCache[bytes, Key] = TTLCache(maxsize=10_000, ttl=CACHE_SECONDS)
        self._unknown: TTLCache[bytes, None] = TTLCache(maxsize=10_000, ttl=UNKNOWN_SECONDS)
        # Threads of its own, because a long report must not delay the look-up of keys.
        self._executor = ThreadPoolExecutor(2, thread_name_prefix="keys")
        self._use = KeyUse(db, clock)

    async def authenticate(self, key: str | None, expected: str, *kinds: KeyKind) -> Key:
        """The key, if it is valid now and of one of `kinds`. `expected` says in messages how to send one.

        Raises CallError: UNAUTHENTICATED without a valid key, PERMISSION_DENIED for another kind.
        """
        if not key:
            raise CallError(grpc.StatusCode.UNAUTHENTICATED, Reason.KEY_REQUIRED, f"send {expected}")
        hashed = hash_key(key)
        found = self._cache.get(hashed)
        if found is None and hashed not in self._unknown:
            found = await asyncio.get_running_loop().run_in_executor(self._executor, self._look_up, hashed)
            if found is not None:
                self._cache[hashed] = found
            else:
                self._unknown[hashed] = None
        if found is None or (found.expires_at is not None and found.expires_at <= self._clock()):
            raise CallError(
                grpc.StatusCode.UNAUTHENTICATED,
                Reason.KEY_UNKNOWN,
                f"the key is not valid or has ended; send {expected}",
            )
        if (call := current_call.get()) is not None:
            call.key, call.site = found, found.site.slug if found.site else ""
        if found.kind not in kinds:
            raise CallError(
                grpc.StatusCode.PERMISSION_DENIED,
                Reason.KEY_KIND_WRONG,
                f"a key of kind {found.kind.name} cannot do this; send {expected}",
            )
        self._use.note(found.key_id)
        return found

    def close(self) -> None:
        """Stores when keys were last used, as far as it is not stored. Returns after 2 s at the latest."""
        self._use.close()

    def _look_up(self, hashed: bytes) -> Key | None:
        with self._db.connection() as connection:
            row = connection.execute(_FIND_KEY, (hashed,)).fetchone()
        if row is None:
            return None
        key_id, kind, expires_at, *site = row
        return Key(key_id, KeyKind(kind), expires_at, Site(*site) if site[0] is not None else None)


def bearer(context: grpc.aio.ServicerContext) -> str | None:  # type: ignore[type-arg]  # of any messages
    """The key in `authorization: Bearer <key>`, if there is one."""
    value = metadata_value(context, "authorization")
    if value is None:
        return None
    scheme, _, key = value.partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None


def metadata_value(context: grpc.aio.ServicerContext, name: str) -> str | None:  # type: ignore[type-arg]  # as above
    """The first value of a metadata key."""
    for key, value in context.invocation_metadata() or ():
        if key == name:
            return value if isinstance(value, str) else value.decode("utf-8", "replace")
    return None
