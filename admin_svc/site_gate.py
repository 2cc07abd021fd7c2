"""Who may write a site's derived rows: workers and folders side by side, or one that replaces rows alone."""

from typing import Any

import psycopg

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
