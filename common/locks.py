"""Every advisory lock the suite takes, so that no two mean different things by one number.

Postgres keeps locks of one number apart from locks of two. Locks of a transaction end with it; a dead
process holds none.
"""

MIGRATION = 0x466F6F7466616C6C
"""One number, held by the session that migrates, so that starting processes migrate one at a time."""


def lane_lock(site_id: int, lane: int) -> tuple[int, int]:
    """Two numbers, held by the transaction that aggregates one lane of one site."""
    return site_id, lane
