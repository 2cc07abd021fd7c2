"""Every advisory lock the suite takes, so that no two mean different things by one number.

Postgres keeps locks of one number apart from locks of two. Locks of a transaction end with it; a dead
process holds none.
"""

MIGRATION = 0x466F6F7466616C6C
"""One number, held by the session that migrates, so that starting processes migrate one at a time."""


_FOLD = 1_000_000
_DAYS_PER_DIMENSION = 100_000


def fold_lock(site_id: int, dimension: int, day: int) -> tuple[int, int]:
    """Two numbers, held by the transaction that folds one dimension of one day (counted from 1970) of a site.

    Days below 100,000 reach to the year 2243, and lanes stay below 64, so no two locks meet.
    """
    return site_id, _FOLD + dimension * _DAYS_PER_DIMENSION + day


def lane_lock(site_id: int, lane: int) -> tuple[int, int]:
    """Two numbers, held by the transaction that aggregates one lane of one site."""
    return site_id, lane


def site_lock(site_id: int) -> tuple[int, int]:
    """Two numbers: shared by every transaction that writes a site's derived rows, held alone by one that replaces
    them (a rebuild), erases a visitor or deletes the site."""
    return site_id, -1


def cleanup_lock(site_id: int) -> tuple[int, int]:
    """Two numbers, held by the transaction that cleans a page of a site up."""
    return site_id, -2


def job_lock(site_id: int, job: int) -> tuple[int, int]:
    """Two numbers, held by the page that the schedule's job number `job` does for a site (0 = for all)."""
    return site_id, -10 - job
