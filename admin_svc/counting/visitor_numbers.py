"""Dense numbers for the visitors of a site."""

import threading
from collections.abc import Mapping

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

    def take(self, counts: Mapping[int, int]) -> dict[int, list[int]]:
        """For each site (by number) so many numbers that no other visitor of it has."""
        with self._lock:
            left = {site_id: self._left.get(site_id, range(0)) for site_id in counts}
            taken = {site_id: [*left[site_id][:count]] for site_id, count in counts.items()}
            missing = {site_id: count - len(taken[site_id]) for site_id, count in counts.items()}
            blocks = self._reserve({site_id: count for site_id, count in missing.items() if count})
            for site_id, count in counts.items():
                block = blocks.get(site_id)
                if block is None:
                    self._left[site_id] = left[site_id][count:]
                else:
                    taken[site_id] += block[: missing[site_id]]
                    self._left[site_id] = block[missing[site_id] :]
            return taken

    def _reserve(self, counts: Mapping[int, int]) -> dict[int, range]:
        """Reserves a block of at least so many numbers for each of some sites, all in one transaction.

        It locks the counters in the order of the sites, so that two processes cannot deadlock.
        """
        if not counts:
            return {}
        blocks = {site_id: max(counts[site_id], _BLOCK) for site_id in sorted(counts)}
        with self._db.transaction() as connection:
            with connection.pipeline():
                cursors = {
                    site_id: connection.execute(_RESERVE, {"site_id": site_id, "count": count})
                    for site_id, count in blocks.items()
                }
            ends = {site_id: cursor.fetchall()[0][0] for site_id, cursor in cursors.items()}
        return {site_id: range(end - blocks[site_id], end) for site_id, end in ends.items()}
