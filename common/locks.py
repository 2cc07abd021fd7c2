"""All advisory locks. They are in one file so that no number is used for two purposes.

Postgres keeps locks of one number apart from locks of two. A transaction's locks end with it, also when its process
dies.
"""

MIGRATION = 0x466F6F7466616C6C
"""One number, held by the session that migrates: processes migrate one at a time."""


_COMPACTION = 1_000_000
_DAYS_PER_DIMENSION = 100_000


def compaction_lock(site_id: int, dimension: int, day: int) -> tuple[int, int]:
    """Two numbers, held by the transaction that compacts one dimension of one day (counted from 1970) of a site.

    Days below 100,000 reach to the year 2243, and there are at most 64 partitions, so no two locks have equal numbers.
    """
    return site_id, _COMPACTION + dimension * _DAYS_PER_DIMENSION + day


def partition_lock(site_id: int, partition: int) -> tuple[int, int]:
    """Two numbers, held by the transaction that aggregates one partition of one site."""
    return site_id, partition


def site_lock(site_id: int) -> tuple[int, int]:
    """Two numbers. Every transaction that writes a site's derived rows holds the lock shared. One that replaces them
    (a rebuild), erases a visitor or deletes the site holds it exclusively."""
    return site_id, -1


def cleanup_lock(site_id: int) -> tuple[int, int]:
    """Two numbers, held by the transaction that does a chunk of a site's cleanup."""
    return site_id, -2


def job_lock(site_id: int, job: int) -> tuple[int, int]:
    """Two numbers, held by a chunk of the schedule's job number `job` for a site (0 = for all sites)."""
    return site_id, -10 - job
