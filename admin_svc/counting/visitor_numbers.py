"""Dense numbers for the visitors of a site."""

import threading

from common.db import Database

# Reserves a block of a site's numbers. Returns the number after its last.
_RESERVE = """
INSERT INTO visitor_counters AS c (site_id, next_no) VALUES (%(site_id)s, %(count)s)
ON CONFLICT (site_id) DO UPDATE SET next_no = c.next_no + %(count)s
RETURNING next_no
"""

_BLOCK = 500


class VisitorNumbers:
    """Gives out numbers from blocks that are reserved in short transactions of their own. So workers of different
    partitions do not wait for each other's chunks at the site's counter. Numbers that are left when the process ends
    are never used; gaps cost visitor sets nothing. May be shared between threads.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self._lock = threading.Lock()
        self._left: dict[int, range] = {}

    def take(self, site_id: int, count: int) -> list[int]:
        """`count` numbers of the site that no other visitor has."""
        with self._lock:
            left = self._left.get(site_id, range(0))
            taken = [*left[:count]]
            left = left[count:]
            missing = count - len(taken)
            if missing:
                block = max(missing, _BLOCK)
                with self._db.connection() as connection:
                    row = connection.execute(_RESERVE, {"site_id": site_id, "count": block}).fetchone()
                assert row is not None
                left = range(row[0] - block, row[0])
                taken += left[:missing]
                left = left[missing:]
            self._left[site_id] = left
            return taken
