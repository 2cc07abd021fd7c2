"""Who may write a site's derived rows: workers and folders side by side, or one that replaces rows alone."""

from typing import Any

import grpc
import psycopg

from common.errors import CallError, Reason
from common.locks import site_lock
from common.sites import DELETING

# Phases of `rebuilds`. While a rebuild queues or clears, nothing else is counted or folded.
QUEUEING = 1
CLEARING = 2
COUNTING = 3
DONE = 4

# Whether a rebuild, or the site's deletion, keeps others out between its pages.
_CLOSED = f"""
SELECT EXISTS (SELECT FROM rebuilds WHERE site_id = %(site_id)s AND phase < {COUNTING})
    OR NOT EXISTS (SELECT FROM sites WHERE site_id = %(site_id)s AND status <> {DELETING})
"""

# Until the last replay is counted. A rebuild whose operator went away then is not in the way for ever.
_UNDER_REBUILD = f"""
SELECT EXISTS (SELECT FROM rebuilds WHERE site_id = %(site_id)s AND phase < {COUNTING})
    OR EXISTS (SELECT FROM pending_batches WHERE site_id = %(site_id)s AND replay)
"""

Connection = psycopg.Connection[Any]


def enter(connection: Connection, site_id: int) -> bool:
    """Enters beside others for the rest of the transaction; False while somebody holds the site alone."""
    row = connection.execute("SELECT pg_try_advisory_xact_lock_shared(%s, %s)", site_lock(site_id)).fetchone()
    if row is None or not row[0]:
        return False
    # Asked after the lock is held: the statement that took it may have seen an older state.
    closed = connection.execute(_CLOSED, {"site_id": site_id}).fetchone()
    return closed is not None and not closed[0]


def hold(connection: Connection, site_id: int) -> None:
    """Holds the site alone for the rest of the transaction, once the pages under way have ended.

    Raises a DatabaseFault when they do not end within the lock timeout (5 s).
    """
    connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", site_lock(site_id))


def refuse_under_rebuild(connection: Connection, site_id: int) -> None:
    """Raises CallError (UNAVAILABLE) while a rebuild has not counted everything again: visitors and sessions are not
    whole then. The transaction has entered or holds the site."""
    row = connection.execute(_UNDER_REBUILD, {"site_id": site_id}).fetchone()
    if row is None or row[0]:
        raise site_busy()


def site_busy() -> CallError:
    """UNAVAILABLE for a site that somebody holds alone, or that is being rebuilt."""
    return CallError(
        grpc.StatusCode.UNAVAILABLE,
        Reason.SITE_BUSY,
        "the site is being rebuilt; try again when RebuildSite has no more",
        retry_after_ms=5_000,
    )
