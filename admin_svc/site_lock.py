"""The lock on a site's derived rows: any number of transactions write side by side, or one replaces rows alone."""

from typing import Any

import psycopg

from common.locks import site_lock
from common.rebuild_phase import rollups_incomplete
from common.sites import DELETING

# Whether a rebuild or the site's deletion keeps others out, also between two of its chunks.
_CLOSED = f"""
SELECT EXISTS (SELECT FROM rebuilds r WHERE r.site_id = %(site_id)s AND {rollups_incomplete("r")})
    OR NOT EXISTS (SELECT FROM sites WHERE site_id = %(site_id)s AND status <> {DELETING})
"""

# Whether a rebuild has not yet aggregated its last replay. Replays are asked for, not the phase: a rebuild whose
# operator went away before the last call must not block the site for ever.
_UNDER_REBUILD = f"""
SELECT EXISTS (SELECT FROM rebuilds r WHERE r.site_id = %(site_id)s AND {rollups_incomplete("r")})
    OR EXISTS (SELECT FROM pending_batches WHERE site_id = %(site_id)s AND replay)
"""

Connection = psycopg.Connection[Any]


class SiteBusy(Exception):  # noqa: N818  # no fault of the site: it can be worked on later
    """The site is being rebuilt or deleted, or another transaction holds it alone."""


def enter(connection: Connection, site_id: int) -> bool:
    """Takes the site's lock beside others until the transaction ends; False while the site is closed to them."""
    row = connection.execute("SELECT pg_try_advisory_xact_lock_shared(%s, %s)", site_lock(site_id)).fetchone()
    if row is None or not row[0]:
        return False
    # Asked after the lock is held: the statement that took it may have seen an older state.
    closed = connection.execute(_CLOSED, {"site_id": site_id}).fetchone()
    return closed is not None and not closed[0]


def hold(connection: Connection, site_id: int) -> None:
    """Takes the site's lock alone until the transaction ends; waits for the transactions that have entered.

    Raises a DatabaseFault when they do not end within the lock timeout (5 s).
    """
    connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", site_lock(site_id))


def refuse_under_rebuild(connection: Connection, site_id: int) -> None:
    """Raises SiteBusy until a rebuild has aggregated everything again: visitors and sessions are incomplete then.

    The transaction has entered or holds the site.
    """
    row = connection.execute(_UNDER_REBUILD, {"site_id": site_id}).fetchone()
    if row is None or row[0]:
        raise SiteBusy
