"""Whether a process can work now: the database answers, and its schema is the one that this release needs."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from common.db import QUICK, Database, DatabaseFault
from common.schema_revision import SchemaError, check_revision

_log = logging.getLogger(__name__)

_INTERVAL_SECONDS = 1.0
_TIMEOUT_SECONDS = 5.0
"""A database that does not answer within this time is not reachable."""


class Readiness:
    """Asks the database once a second. It uses its own connection, so that a full pool does not look like an outage."""

    def __init__(self, db: Database) -> None:
        self._db = db.limited(QUICK)
        self._asking: asyncio.Task[None] | None = None

    async def check_at_start(self) -> bool:
        """Whether the database answers. Raises SystemExit with one line if its schema is not the one needed."""
        try:
            return await self._ready()
        except SchemaError as error:
            raise SystemExit(str(error)) from None

    async def watch(self, tell: Callable[[bool], Awaitable[None]]) -> None:
        """Calls `tell` with whether the process is ready, at first and after each change, until it is cancelled."""
        before: bool | None = None
        while True:
            try:
                ready = await self._ready()
            except SchemaError as error:
                if before is not False:
                    _log.error("not ready: %s", error)
                ready = False
            if ready != before:
                await tell(ready)
                before = ready
            await asyncio.sleep(_INTERVAL_SECONDS)

    async def _ready(self) -> bool:
        # Its thread waits for a frozen database for up to 9 s, so there is at most one.
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(asyncio.to_thread(self._ask))
        try:
            await asyncio.wait_for(asyncio.shield(self._asking), _TIMEOUT_SECONDS)
        except (*DatabaseFault, TimeoutError):
            return False
        return True

    def _ask(self) -> None:
        with self._db.connect() as connection:
            check_revision(connection)
