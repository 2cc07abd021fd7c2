"""What the jobs of the schedule cost on a thousand small sites: with one event each, and with nothing to do.

    python -m bench.idle_jobs [--scale 0.1] [--json FILE]

The jobs run in this process, one run after the other, as in an admin process.
"""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from random import Random

from admin_svc.counting.aggregate import Aggregator
from admin_svc.counting.visitor_numbers import VisitorNumbers
from admin_svc.schedule import jobs, runs
from admin_svc.schedule.schedule import Schedule
from bench.command_line import main, say
from bench.figures import Figure
from bench.ingest import requests_of
from bench.own_suite import Stage, open_stage
from bench.senders import offer_each
from common.db import Database
from common.settings import Settings

PART = "idle jobs"
SITES = 1_000
IDLE_MS = 1_000.0

_JOBS = ("aggregate", runs.COMPACT, "retry", "cleanup", "prune")
_CALLS_A_SECOND = 500.0
_MOST_RUNS = 100
_PENDING = "SELECT FROM pending_batches LIMIT 1"
_DELTAS = "SELECT FROM rollup_shards WHERE delta_no > 0 LIMIT 1"


def measure(scale: float) -> list[Figure]:
    """Measures on a suite of its own, whose processes run no job."""
    sites = max(10, round(SITES * scale))
    with open_stage() as stage, _schedule(stage) as schedule:
        keys = stage.create_sites([f"small-{number:04d}" for number in range(sites)])
        sent = offer_each(stage.connection.ingest, keys, requests_of(sites, 1, Random(1)), _CALLS_A_SECOND)
        assert sent.accepted == sites, sent
        aggregated = _until_none(stage, schedule, "aggregate", _PENDING)
        compacted = _until_none(stage, schedule, runs.COMPACT, _DELTAS)
        say(f"{PART}: {sites:,} events aggregated in {aggregated:.1f} s, compacted in {compacted:.1f} s")
        with stage.database() as connection:
            connection.execute("VACUUM ANALYZE")
        figures = [
            Figure(PART, f"{sites:,} sites, one event each: aggregated", aggregated, "s"),
            Figure(PART, "  compacted", compacted, "s"),
        ]
        for name in _JOBS:
            # The first run may still find something to do.
            shortest = 1_000 * min([_timed(schedule, name) for _ in range(4)][1:])
            figures.append(Figure(PART, f"an idle run of {name}", shortest, "ms", IDLE_MS, at_least=False))
        return figures


@contextmanager
def _schedule(stage: Stage) -> Iterator[Schedule]:
    settings = Settings(database_url=stage.database_url)
    with closing(Database(stage.database_url, application="bench")) as db:
        yield Schedule(
            db,
            jobs.jobs(settings, Aggregator(VisitorNumbers(db))),
            lambda: datetime.now(UTC),
            run_seconds=settings.run_seconds,
            run_chunks=settings.run_pages,
        )


def _until_none(stage: Stage, schedule: Schedule, job: str, found: str) -> float:
    """Runs a job until the statement finds no row. Returns the seconds that took."""
    began = time.perf_counter()
    with stage.database() as connection:
        for _ in range(_MOST_RUNS):
            if connection.execute(found).fetchone() is None:
                break
            schedule.run_once(job)
    return time.perf_counter() - began


def _timed(schedule: Schedule, name: str) -> float:
    began = time.perf_counter()
    schedule.run_once(name)
    return time.perf_counter() - began


if __name__ == "__main__":
    main(__doc__, measure)
