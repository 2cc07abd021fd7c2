"""Every advisory lock the suite takes. They stand in one file so that no two mean different things by one number.

Postgres keeps locks of one number apart from locks of two. A lock of a transaction ends with it, also when its
process dies.
"""

MIGRATION = 0x466F6F7466616C6C
"""One number, held by the session that migrates: processes migrate one at a time."""


_COMPACTION = 1_000_000
_DAYS_PER_DIMENSION = 100_000


def compaction_lock(site_id: int, dimension: int, day: int) -> tuple[int, int]:
    """Two numbers, held by the transaction that compacts one dimension of one day (counted from 1970) of a site.

    Days below 100,000 reach to the year 2243, and there are at most 64 partitions, so no two locks meet.
    """
    return site_id, _COMPACTION + dimension * _DAYS_PER_DIMENSION + day


def partition_lock(site_id: int, partition: int) -> tuple[int, int]:
    """Two numbers, held by the transaction that aggregates one partition of one site."""
    return site_id, partition


def site_lock(site_id: int) -> tuple[int, int]:
    """Two numbers: shared by every transaction that writes a site's derived rows, held alone by one that replaces
    them (a rebuild), erases a visitor or deletes the site."""
    return site_id, -1


def cleanup_lock(site_id: int) -> tuple[int, int]:
    """Two numbers, held by the transaction that does a chunk of a site's cleanup."""
    return site_id, -2


def job_lock(site_id: int, job: int) -> tuple[int, int]:
    """Two numbers, held by the chunk that the schedule's job number `job` does for a site (0 = for all)."""
    return site_id, -10 - job
