"""The lock on a site's derived rows: shared by transactions that write, held exclusively by one that replaces rows."""

from typing import Any

import psycopg

from common.locks import site_lock
from common.rebuild_phase import rollups_incomplete
from common.sites import DELETING

# Whether a rebuild or the site's deletion keeps others out. It does so between two of its chunks as well.
_CLOSED = f"""
SELECT EXISTS (SELECT FROM rebuilds r WHERE r.site_id = %(site_id)s AND {rollups_incomplete("r")})
    OR NOT EXISTS (SELECT FROM sites WHERE site_id = %(site_id)s AND status <> {DELETING})
"""

# Whether a rebuild has not yet aggregated its last replay. The replays decide and not the phase REPLAYING: a rebuild
# whose last call was never made must not block the site for ever.
_UNDER_REBUILD = f"""
SELECT EXISTS (SELECT FROM rebuilds r WHERE r.site_id = %(site_id)s AND {rollups_incomplete("r")})
    OR EXISTS (SELECT FROM pending_batches WHERE site_id = %(site_id)s AND replay)
"""

Connection = psycopg.Connection[Any]


class SiteBusy(Exception):  # noqa: N818  # not an error: the site can be worked on later
    """The site is being rebuilt or deleted, or another transaction holds its lock exclusively."""


def enter(connection: Connection, site_id: int) -> bool:
    """Takes the site's lock shared, until the transaction ends. Returns False, without waiting, if another transaction
    holds it exclusively or a rebuild or the site's deletion keeps others out."""
    row = connection.execute("SELECT pg_try_advisory_xact_lock_shared(%s, %s)", site_lock(site_id)).fetchone()
    if row is None or not row[0]:
        return False
    # A statement of its own, after the lock is held: the one that took the lock may have seen an older state.
    closed = connection.execute(_CLOSED, {"site_id": site_id}).fetchone()
    return closed is not None and not closed[0]


def hold(connection: Connection, site_id: int) -> None:
    """Takes the site's lock exclusively, until the transaction ends. Waits for the transactions that have entered.

    Raises a DatabaseFault if they do not end within the lock timeout (5 s).
    """
    connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", site_lock(site_id))


def refuse_under_rebuild(connection: Connection, site_id: int) -> None:
    """Raises SiteBusy while a rebuild has events left to aggregate again: until then visitors and sessions are
    incomplete.

    The transaction must have entered the site or hold it.
    """
    row = connection.execute(_UNDER_REBUILD, {"site_id": site_id}).fetchone()
    if row is None or row[0]:
        raise SiteBusy
