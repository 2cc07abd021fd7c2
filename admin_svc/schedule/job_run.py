"""One run of a job: which site's chunk is next, until no site has work or the run's time or chunks are spent.

A run goes round the sites that have work, one chunk each. A job that can work on small sites together does so, and
looks again for sites with work after every large chunk. So a single event waits for one chunk of another site's
backlog, however deep that is, and a backlog waits for one chunk of small sites.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from admin_svc.chunk import Chunk
from admin_svc.error_text import error_text
from admin_svc.metrics import count_chunk
from admin_svc.schedule.jobs import Connection, Job, Together
from admin_svc.schedule.runs import Run
from admin_svc.site_lock import SiteBusy
from common.clock import Clock
from common.db import DatabaseFault
from common.telemetry import tracing

_log = logging.getLogger(__name__)

# After so many of the rows of a full chunk a run looks again for sites with work.
_LOOK_AFTER = 0.1


@dataclass
class LastSites:
    """The sites with which the run before ended. The next one begins with those after them."""

    alone: int = -1
    together: int = -1


class JobRun:
    """One run of a job, in one thread. It puts what was done into `runs`, by site."""

    def __init__(
        self, connection: Connection, job: Job, clock: Clock, last: LastSites, may_go_on: Callable[[int], bool]
    ) -> None:
        """`may_go_on` is asked before each chunk, with the number of chunks that were done."""
        self._connection = connection
        self._job = job
        self._clock = clock
        self._last = last
        self._may_go_on = may_go_on
        self._chunks = 0
        self.runs: dict[int, Run] = {}

    def do(self) -> None:
        """Does the chunks. Errors of a chunk are logged and stored with the run, and do not end it."""
        if self._job.together is None:
            self._round_and_round()
        else:
            self._look_again_and_again(self._job.together)

    def _round_and_round(self) -> None:
        """The sites that have work when the run begins, in turns."""
        sites = _in_turn(self._job.sites(self._connection, self._clock()), self._last.alone)
        while sites:
            for site_id in tuple(sites):
                if not self._goes_on():
                    return
                chunk, _ = self._alone(site_id)
                if chunk is None or not chunk.has_more:
                    sites.remove(site_id)

    def _look_again_and_again(self, together: Together) -> None:
        """The sites that have work, in turns: a chunk of small sites, a chunk of one that is not small, and so on.

        The run ends when only small sites had work, which are done. What comes in meanwhile is left to the next run,
        so that it is aggregated together.
        """
        in_vain: set[int] = set()
        again = True
        while again and self._goes_on():
            now = self._clock()
            sites = [site_id for site_id in self._job.sites(self._connection, now) if site_id not in in_vain]
            small = together.small(self._connection, _in_turn(sites, self._last.together), now)
            large = _in_turn([site_id for site_id in sites if site_id not in small], self._last.alone)
            again, rows = False, 0
            while small or large:
                if rows >= self._job.limit * _LOOK_AFTER:
                    again = True
                    break
                chosen = dict(islice(small.items(), together.most))
                small = dict(islice(small.items(), together.most, None))
                next_ones = [*self._together(together, chosen), *large[:1]] if chosen else large[:1]
                del large[:1]
                for site_id in next_ones:
                    if not self._goes_on():
                        return
                    chunk, done = self._alone(site_id)
                    rows += done
                    if chunk is None or not (chunk.has_more or done):
                        in_vain.add(site_id)
                    elif chunk.has_more:
                        again = True
                if not self._goes_on():
                    return

    def _goes_on(self) -> bool:
        return not self._connection.closed and self._may_go_on(self._chunks)

    def _together(self, together: Together, sites: Mapping[int, list[int]]) -> list[int]:
        """Does a chunk of small sites. Returns those that have to be done alone."""
        self._last.together = list(sites)[-1]
        self._chunks += 1
        started, began = self._clock(), time.perf_counter()
        with tracing.span(f"chunk of {self._job.name}", sites=len(sites)):
            chunks = together.chunk(self._connection, sites, started)
        finished = self._clock()
        rows = sum(self._job.rows(chunk.done) for chunk in chunks.values())
        count_chunk(self._job.name, time.perf_counter() - began, rows, failed=False)
        for site_id, chunk in chunks.items():
            self._add(site_id, started, finished, self._job.rows(chunk.done), None)
        return [site_id for site_id in sites if site_id not in chunks]

    def _alone(self, site_id: int) -> tuple[Chunk[Any] | None, int]:
        """Does a chunk of one site. Returns it, None if it could not be done, and the number of its rows."""
        self._last.alone = site_id
        self._chunks += 1
        started, began = self._clock(), time.perf_counter()
        with tracing.span(f"chunk of {self._job.name}", site_id=site_id):
            chunk, error = self._chunk(site_id, started)
        rows = self._job.rows(chunk.done) if chunk else 0
        if chunk is not None or error is not None:
            count_chunk(self._job.name, time.perf_counter() - began, rows, failed=error is not None)
        self._add(site_id, started, self._clock(), rows, error)
        return chunk, rows

    def _chunk(self, site_id: int, now: datetime) -> tuple[Chunk[Any] | None, str | None]:
        """Does one chunk; returns it, or the error it ended with. An error of one site must not end the run."""
        try:
            return self._job.run_chunk(self._connection, site_id, now), None
        except SiteBusy:
            # It is being rebuilt or deleted. A later run tries again.
            return None, None
        except DatabaseFault as error:
            _log.warning("%s of site %d could not run: %s", self._job.name, site_id, error)
            return None, error_text(error)
        except Exception as error:
            _log.exception("%s of site %d failed", self._job.name, site_id)
            return None, error_text(error)

    def _add(self, site_id: int, started: datetime, finished: datetime, rows: int, error: str | None) -> None:
        """Adds a chunk to the site's run, if anything was done."""
        if rows or error:
            run = self.runs.get(site_id) or Run(site_id, self._job.name, started, finished, 0, 0)
            self.runs[site_id] = run._replace(
                finished_at=finished, chunks=run.chunks + 1, rows=run.rows + rows, error=error
            )


def _in_turn(sites: Iterable[int], last: int) -> list[int]:
    """The sites by number, beginning after the last one that had its turn."""
    return sorted(sites, key=lambda site_id: (site_id <= last, site_id))
