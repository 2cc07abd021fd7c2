"""When keys were last used: noted in memory by calls, and stored by a thread of its own."""

import logging
import threading
from datetime import datetime, timedelta

import psycopg

from common.clock import Clock
from common.db import Database, DatabaseFault

_log = logging.getLogger(__name__)

STORED_AGAIN_AFTER = timedelta(minutes=1)
"""A key's row is written at most once in this time, by however many processes."""

_LOOK_SECONDS = 5.0
_CLOSE_SECONDS = 2.0
_MOST_A_STATEMENT = 1_000
_MOST_NOTED = 10_000

# Stores the last use of many keys. Rows that another process is writing are left to the next time: nothing waits here,
# and two processes cannot deadlock. A use that is less than a minute newer than the stored one is not stored.
_STORE = """
WITH used AS (SELECT * FROM unnest(%(key_ids)s::bigint[], %(times)s::timestamptz[]) AS used (key_id, at)),
due AS (
    SELECT k.key_id, used.at FROM api_keys k JOIN used ON used.key_id = k.key_id
    WHERE k.key_id = ANY(%(key_ids)s::bigint[])
      AND (k.last_used_at IS NULL OR k.last_used_at <= used.at - %(again)s::interval)
    FOR NO KEY UPDATE OF k SKIP LOCKED
)
UPDATE api_keys k SET last_used_at = due.at FROM due WHERE k.key_id = due.key_id
"""


class KeyUse:
    """Notes that keys were used, and stores it in `api_keys.last_used_at` within some seconds, once a minute a key.

    A call pays for a clock and a dictionary. What a killed process has noted and not stored is lost.
    """

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        # Uses that are not stored, and uses that this process has stored within the last minute.
        self._noted: dict[int, datetime] = {}
        self._stored: dict[int, datetime] = {}
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def note(self, key_id: int) -> None:
        """The key was used now. Call it in the event loop's thread."""
        # With so many keys in a minute, some are noted by a later call.
        if key_id in self._noted or len(self._noted) < _MOST_NOTED:
            self._noted[key_id] = self._clock()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="key use", daemon=True)
            self._thread.start()

    def store(self) -> None:
        """Stores the uses that are due, in statements of at most 1,000 keys. Raises DatabaseFault and psycopg.Error."""
        now = self._clock()
        self._stored = {key_id: at for key_id, at in self._stored.items() if now - at < STORED_AGAIN_AFTER}
        due = []
        # The copy is made at once, so that calls may note further uses meanwhile.
        for key_id, at in list(self._noted.items()):
            stored = self._stored.get(key_id)
            if stored is None or at - stored >= STORED_AGAIN_AFTER:
                due.append((key_id, at))
            else:
                # A use that is less than a minute newer than the stored one is left out.
                self._forget(key_id, at)
        for first in range(0, len(due), _MOST_A_STATEMENT):
            part = due[first : first + _MOST_A_STATEMENT]
            key_ids, times = zip(*part, strict=True)
            with self._db.transaction() as connection:
                parameters = {"key_ids": list(key_ids), "times": list(times), "again": STORED_AGAIN_AFTER}
                connection.execute(_STORE, parameters)
            for key_id, at in part:
                self._stored[key_id] = at
                self._forget(key_id, at)

    def close(self) -> None:
        """Stores what is due, and returns after 2 s at the latest."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(_CLOSE_SECONDS)

    def _forget(self, key_id: int, at: datetime) -> None:
        if self._noted.get(key_id) == at:
            del self._noted[key_id]

    def _run(self) -> None:
        told = False
        while True:
            closing = self._closing.wait(_LOOK_SECONDS)
            try:
                self.store()
            except DatabaseFault as error:
                # Also on a standby. Calls tell of a database that is away, so that this need not.
                _log.debug("the last use of keys is not stored now: %s", error)
            except psycopg.Error as error:
                if not told:
                    _log.warning("the last use of keys cannot be stored: %s", error)
                told = True
            if closing:
                return
