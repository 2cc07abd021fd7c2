"""Kills processes of a suite by chance, with SIGKILL, while it is used, and counts everything again afterwards.

    python -m bench.kills [--kills 40] [--seconds 60] [--rate 1000] [--seed N] [--workers 2] [--json FILE]

Services, their workers, the embedded Postgres, its backends and its helpers are killed in turn, at instants by chance.
Meanwhile every event is sent twice, in two batches with other neighbours, each until it is acknowledged; reports are
asked for, and maintenance runs by itself and by RPC, a rebuild included. Then every answer is held against a recount of
what was acknowledged, and `footfall verify` against the raw events. Exits with 1 if something differs.
"""

import argparse
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from bench.callers import Callers, Rebuild, maintenance_calls, query_calls
from bench.command_line import report, say
from bench.figures import Figure
from bench.own_suite import Stage, open_stage
from bench.victims import Killer, victims
from tests.support.commands import footfall
from tests.support.footfall_site import FootfallSite
from tests.support.processes import eventually
from tests.support.pushback import TRY_AGAIN, Senders
from tests.support.suite import Suite
from tests.support.traffic import WHOLE, Sending, differing, made_up, metadata_of, overlapping

PART = "kills"

_TIMES = 2
_BATCH = 20
_EVENTS_A_VISITOR = 50
_SENDERS = 8
_OVERTIME = 2.0
"""For how many times the planned seconds it looks for processes to kill."""
_CALM_SECONDS = 180.0
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Plan:
    """What is done to the suite."""

    kills: int = 40
    seconds: float = 60.0
    rate: float = 1_000.0
    """Events a second that are sent, each event twice."""
    workers: int = 2
    seed: int = 1


@dataclass
class Outcome:
    """What was done and what was found afterwards."""

    killed: dict[str, int]
    events: int
    aggregated: int
    """Events of the overview over everything."""
    tried_again: Counter[grpc.StatusCode]
    """Calls of senders that were refused and sent again."""
    reports: Callers
    maintenance: Callers
    differences: list[str] = field(default_factory=list)
    verify: str = ""
    """The output of `footfall verify` if it failed."""

    @property
    def wrong(self) -> list[str]:
        """Everything that must not be; empty if all is well."""
        return self.differences + self.unexpected + ([self.verify] if self.verify else [])

    @property
    def unexpected(self) -> list[str]:
        """The refusals that no client would try again."""
        senders = [f"IngestBatch: {code.name}" for code in self.tried_again if code not in TRY_AGAIN]
        return senders + [str(one) for callers in (self.reports, self.maintenance) for one in callers.unexpected]


def kill_and_recount(stage: Stage, plan: Plan) -> Outcome:
    """Uses and kills the processes of a suite of its own, whose schedule has to be on, and waits until all is well
    again. Raises AssertionError if that takes longer than three minutes or an event is not acknowledged in one."""
    suite = Suite(stage.connection, stage.folder, stage.database_url)
    site = FootfallSite(suite, "kills", rollup_shard_count=2)
    events = made_up(
        plan.seed,
        visitors=max(5, round(plan.rate * plan.seconds / _TIMES / _EVENTS_A_VISITOR)),
        events=max(_BATCH, round(plan.rate * plan.seconds / _TIMES)),
    )
    sendings = [
        Sending(site.ingest, site.write_key, batch)
        for batch in overlapping(events, plan.seed, times=_TIMES, size=_BATCH)
    ]
    senders = Senders(sendings, _SENDERS, tuple(grpc.StatusCode), plan.rate / _BATCH)
    killer = Killer(stage.folder, rng := random.Random(plan.seed))
    kinds = set(victims(stage.folder))
    began = time.monotonic()
    rebuild = Rebuild(site, begin_at=began + plan.seconds / 3)
    with Callers(query_calls(site)) as reports, Callers(maintenance_calls(site, rebuild)) as maintenance:
        senders.start()
        for instant in sorted(rng.uniform(0, plan.seconds) for _ in range(plan.kills)):
            time.sleep(max(0.0, began + instant - time.monotonic()))
            killer.kill(lambda: time.monotonic() > began + plan.seconds * _OVERTIME)
        senders.finish()
    eventually(lambda: kinds <= set(victims(stage.folder)), _CALM_SECONDS, _POLL_SECONDS)
    eventually(lambda: maintenance.try_to(rebuild.step), _CALM_SECONDS, _POLL_SECONDS)
    eventually(lambda: reports.try_to(lambda: metadata_of(site).pending_events == 0), _CALM_SECONDS, _POLL_SECONDS)
    aggregated = site.overview(*WHOLE).events
    found = Outcome(killer.killed, len(events), aggregated, senders.refused, reports, maintenance)
    found.differences = differing(site, events)
    code, output = footfall(suite, "verify", "--site", site.slug)
    found.verify = output if code else ""
    suite.close()
    return found


def _figures(plan: Plan, found: Outcome) -> list[Figure]:
    return [
        Figure(PART, "processes killed", sum(found.killed.values()), "", plan.kills),
        Figure(PART, "events acknowledged", found.events, "events"),
        Figure(PART, "aggregated too often", max(0, found.aggregated - found.events), "events", 0.0, at_least=False),
        Figure(PART, "lost", max(0, found.events - found.aggregated), "events", 0.0, at_least=False),
        Figure(PART, "answers that differ from the recount", len(found.differences), "", 0.0, at_least=False),
        Figure(PART, "`footfall verify` failed", bool(found.verify), "", 0.0, at_least=False),
        Figure(PART, "batches that were refused and sent again", found.tried_again.total(), "calls"),
        Figure(PART, "reports answered", found.reports.answered, "calls"),
        Figure(PART, "reports refused", found.reports.refused.total(), "calls"),
        Figure(PART, "calls of maintenance answered", found.maintenance.answered, "calls"),
        Figure(PART, "calls of maintenance refused", found.maintenance.refused.total(), "calls"),
        Figure(PART, "other refusals than to try again", len(found.unexpected), "kinds", 0.0, at_least=False),
    ]


def _parse_plan() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--kills", type=int, default=Plan.kills, help="how many processes are killed")
    parser.add_argument("--seconds", type=float, default=Plan.seconds, help="for how long")
    parser.add_argument("--rate", type=float, default=Plan.rate, help="events a second that are sent, each twice")
    parser.add_argument("--workers", type=int, default=Plan.workers, help="processes of each service")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000), help="of all chance")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    options = parser.parse_args()
    options.scale = 1.0
    return options


def _main() -> None:
    options = _parse_plan()
    plan = Plan(options.kills, options.seconds, options.rate, options.workers, options.seed)
    say(f"{PART}: seed {plan.seed}; the same kinds are killed at the same instants with --seed {plan.seed}")
    with open_stage(FOOTFALL_SCHEDULE="on", FOOTFALL_WORKERS=str(plan.workers)) as stage:
        found = kill_and_recount(stage, plan)
    for kind, number in sorted(found.killed.items()):
        say(f"{PART}: {number} × {kind}")
    for name, callers in (("reports", found.reports), ("maintenance", found.maintenance)):
        for refusal, number in callers.refused.items():
            say(f"{PART}: {name}: {number} × {refusal}")
    for wrong in found.wrong:
        say(f"{PART}: WRONG: {wrong}")
    report(_figures(plan, found), options)
    if found.wrong:
        sys.exit(1)


if __name__ == "__main__":
    _main()
