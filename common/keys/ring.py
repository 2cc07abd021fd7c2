"""Finds the keys that callers send, through a cache of at most 5 s."""

import grpc
from cachetools import LRUCache, TTLCache

from common.calls.call import current_call
from common.clock import Clock
from common.db import Database
from common.errors import CallError, Reason
from common.keys.key import Key, KeyKind, hash_key
from common.keys.lookup import KeyLookup
from common.keys.use import KeyUse

CACHE_SECONDS = 4.0
"""A second less than the 5 s promised, for the time that a look-up takes."""

UNKNOWN_SECONDS = 1.0
"""For how long an unknown key is not looked up again."""


class KeyRing:
    """Finds keys by hash. A key that was ended by another process is accepted for at most 5 s more."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._lookup = KeyLookup(db)
        self._use = KeyUse(db, clock)
        self._clock = clock
        self._cache: TTLCache[bytes, Key] = TTLCache(maxsize=10_000, ttl=CACHE_SECONDS)
        self._unknown: TTLCache[bytes, None] = TTLCache(maxsize=10_000, ttl=UNKNOWN_SECONDS)
        self._known: LRUCache[bytes, None] = LRUCache(maxsize=10_000)

    async def authenticate(self, key: str | None, expected: str, *kinds: KeyKind) -> Key:
        """The key, if it is valid now and of one of `kinds`. `expected` says in messages how to send one.

        Raises CallError: UNAUTHENTICATED without a valid key, PERMISSION_DENIED for another kind, RESOURCE_EXHAUSTED
        while too many keys that were never valid are being looked up, UNAVAILABLE if the database does not answer.
        """
        if not key:
            raise CallError(grpc.StatusCode.UNAUTHENTICATED, Reason.KEY_REQUIRED, f"send {expected}")
        hashed = hash_key(key)
        found = self._cache.get(hashed)
        if found is None and hashed not in self._unknown:
            found = await self._lookup.find(hashed, known=hashed in self._known)
            if found is not None:
                self._cache[hashed] = found
                self._known[hashed] = None
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
        """Stores when keys were last used, as far as it is not stored, and closes the connection that keys are looked
        up on. Returns after 2 s at the latest."""
        self._use.close()
        self._lookup.close()
