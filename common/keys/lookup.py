"""Looks up API keys by their hashes."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import grpc
import psycopg

from common.db import Database, DatabaseFault
from common.errors import CallError, Reason, database_unavailable
from common.keys.key import Key, KeyKind
from common.sites import COLUMNS, Site

# At most as many rows as there are hashes, by the unique index.
_FIND_KEYS = f"""
SELECT k.key_sha256, k.key_id, k.kind, k.expires_at, {COLUMNS}
FROM api_keys k LEFT JOIN sites s ON s.site_id = k.site_id
WHERE k.key_sha256 = ANY(%s)
"""

_MAX_BATCH = 500
_MAX_WAITING = 2_000
"""How many keys that were never valid may wait to be looked up."""

_Waiting = dict[bytes, asyncio.Future[Key | None]]


class KeyLookup:
    """Looks keys up in the database, all that wait at once in one statement.

    It has a thread and a connection of its own, so that reports cannot delay it. Keys that were valid before go first,
    so that a flood of keys that never were cannot delay them by more than the statement under way.
    """

    def __init__(self, db: Database, timeout_seconds: float = 4.0) -> None:
        """`timeout_seconds`: how long a caller waits for the database."""
        self._db = db
        self._timeout_seconds = timeout_seconds
        self._connection: psycopg.Connection[Any] | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="keys")
        self._waiting: tuple[_Waiting, _Waiting] = ({}, {})
        self._task: asyncio.Task[None] | None = None

    async def find(self, hashed: bytes, *, known: bool) -> Key | None:
        """The key with the hash, None if there is none. `known`: it was valid before.

        Raises CallError: RESOURCE_EXHAUSTED if too many others wait, UNAVAILABLE if the database does not answer.
        """
        waiting = self._waiting[0 if known else 1]
        future = waiting.get(hashed)
        if future is None:
            if not known and len(waiting) >= _MAX_WAITING:
                raise CallError(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    Reason.TOO_MANY_CALLS,
                    "too many keys are being looked up; send it again after the delay",
                    retry_after_ms=1_000,
                )
            future = waiting[hashed] = asyncio.get_running_loop().create_future()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look_up_all())
        try:
            # Shielded, because other calls may wait for the same key.
            return await asyncio.wait_for(asyncio.shield(future), self._timeout_seconds)
        except TimeoutError:
            raise database_unavailable() from None

    def close(self) -> None:
        """Ends the thread and closes the connection, once a statement under way has ended."""
        self._executor.submit(self._disconnect)
        self._executor.shutdown(wait=False)

    async def _look_up_all(self) -> None:
        while any(self._waiting):
            batch: _Waiting = {}
            for waiting in self._waiting:
                for hashed in list(islice(waiting, _MAX_BATCH - len(batch))):
                    batch[hashed] = waiting.pop(hashed)
            try:
                loop = asyncio.get_running_loop()
                found = await loop.run_in_executor(self._executor, self._look_up, list(batch))
            except Exception as error:  # whatever happened, every caller must get an answer
                for future in batch.values():
                    future.set_exception(error)
                    future.exception()  # seen, even if every caller has left
            else:
                for hashed, future in batch.items():
                    future.set_result(found.get(hashed))

    def _look_up(self, hashes: list[bytes]) -> dict[bytes, Key]:
        fresh = self._connection is None
        try:
            return self._ask(hashes)
        except DatabaseFault:
            self._disconnect()
            if fresh:
                raise
        # The connection may have been closed since its last use. A new one tells whether the database is away.
        try:
            return self._ask(hashes)
        except DatabaseFault:
            self._disconnect()
            raise

    def _ask(self, hashes: list[bytes]) -> dict[bytes, Key]:
        if self._connection is None:
            self._connection = self._db.connect()
            self._connection.autocommit = True
        rows = self._connection.execute(_FIND_KEYS, (hashes,)).fetchall()
        return {
            hashed: Key(key_id, KeyKind(kind), expires_at, Site(*site) if site[0] is not None else None)
            for hashed, key_id, kind, expires_at, *site in rows
        }

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
