"""Calls every RPC that the services name by reflection with random messages, and looks what becomes of them.

    python -m bench.fuzz [--count 20000] [--seed N] [--json FILE]

Messages are typed ones with sane and wild values, or such ones with changed bytes, sent with no key, a wrong one or the
right one and with odd metadata. No call may end in INTERNAL or UNKNOWN, and every refusal of ours has a known reason.
Afterwards the services live and have not grown much, the figures of a site that no message named equal the recount, and
those of one that all named equal its raw events (`footfall verify`). Exits with 1 if anything is wrong.
"""

import argparse
import random
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import psutil  # type: ignore[import-untyped]  # carries no type information
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.command_line import report, say
from bench.figures import Figure
from bench.fuzz_calls import Verdicts, call, open_channel, rpcs_of
from bench.fuzz_plan import Planner
from bench.own_suite import MEGABYTE, open_stage, peak_memory
from tests.oracle.raw_events import SECOND
from tests.support.commands import footfall
from tests.support.footfall_site import FootfallSite
from tests.support.processes import service_pids
from tests.support.rebuilding import rebuilt
from tests.support.suite import Suite
from tests.support.traffic import WHOLE, batch_of, differing, made_up

PART = "fuzz"
GROWTH_MEGABYTES = 400.0

_COUNT = 20_000
_CALLERS = 8
_SHARE = 200
"""How many calls are planned at once; between two shares the keys are mended."""
_EVENTS = 300
_RECENT = timedelta(days=1)
_SHOWN = 20
_SAID = 1_000


@dataclass
class Outcome:
    """What was found."""

    verdicts: Verdicts
    calls: int
    rpcs: int
    seconds: float
    growth: dict[str, float]
    """By service: peak less beginning, in MB."""
    ended: list[str]
    """Services that are not the same process any more or do not answer."""
    differences: list[str]
    verify: str
    """The output of `footfall verify` if it failed."""

    @property
    def wrong(self) -> list[str]:
        """Everything that must not be; empty if all is well."""
        found = [f"{len(calls)} × {kind}, such as {calls[0]}" for kind, calls in self.verdicts.faults.items()]
        found += [f"let in without a right key: {one}" for one in self.verdicts.let_in]
        found += [f"{service} ended or does not answer" for service in self.ended]
        return found + [f"differs: {one}" for one in self.differences] + ([self.verify] if self.verify else [])


def fuzz(suite: Suite, seed: int, count: int) -> Outcome:
    """Makes `count` calls on a suite that runs nothing by itself and whose sites may come to harm."""
    quiet, lively = (FootfallSite(suite, name, rollup_shard_count=2) for name in ("quiet", "lively"))
    events = made_up(seed, visitors=20, events=_EVENTS)
    for site in (quiet, lively):
        site.send(batch_of(events))
        site.aggregate()
    before = service_pids(suite.data_dir)
    began = time.monotonic()
    verdicts = Verdicts()
    sizes = {service: psutil.Process(pid).memory_info().rss / MEGABYTE for service, pid in before.items()}
    addresses = {service: getattr(suite, service) for service in before}
    channels = {service: open_channel(address) for service, address in addresses.items()}
    try:
        rpcs = [rpc for service, channel in channels.items() for rpc in rpcs_of(service, channel)]
        with Planner(suite, lively, rpcs, seed) as planner, peak_memory(list(before.values())) as peaks:
            for first in range(0, count, _SHARE):
                _make_calls(planner, range(first, min(count, first + _SHARE)), channels, verdicts)
                if first % _SAID == 0 and first:
                    say(f"{PART}: {first:,} calls, {verdicts.number_of_faults} faults")
        seconds = time.monotonic() - began
        ended = [service for service, pid in before.items() if not _lives(suite, service, pid, channels)]
    finally:
        for channel in channels.values():
            channel.close()
    rebuilt(lively)
    lively.aggregate()
    verified = [_verify(suite, lively, start, end) for start, end in _spans()]
    growth = {service: peak - sizes[service] for service, peak in zip(before, peaks, strict=True)}
    found = differing(quiet, events)
    return Outcome(verdicts, count, len(rpcs), seconds, growth, ended, found, "".join(verified))


def _make_calls(planner: Planner, numbers: range, channels: Mapping[str, grpc.Channel], verdicts: Verdicts) -> None:
    """Plans calls, makes them from several threads, and lets the planner learn from the answers in their order."""
    attempts = [planner.attempt(number) for number in numbers]
    with ThreadPoolExecutor(_CALLERS) as pool:
        made = pool.map(lambda one: call(channels[one.rpc.service], one, verdicts), attempts)
        for attempt, answers in zip(attempts, made, strict=True):
            planner.learn(attempt, answers)
    planner.mend_keys()


def _spans() -> list[tuple[datetime, datetime]]:
    """Where the events lie: those with a sane instant, and those that were given none. Wild instants lie anywhere, and
    a recount of every hour since 1970 would take minutes."""
    sane = [datetime.fromtimestamp(micros // SECOND, UTC) for micros in WHOLE]
    return [(sane[0], sane[1]), (datetime.now(UTC) - _RECENT, datetime.now(UTC) + _RECENT)]


def _verify(suite: Suite, site: FootfallSite, start: datetime, end: datetime) -> str:
    """The output of `footfall verify` over a range; "" if every answer equals the recount."""
    instants = ("--start", start.isoformat(), "--end", end.isoformat())
    code, output = footfall(suite, "verify", "--site", site.slug, *instants)
    return output if code else ""


def _lives(suite: Suite, service: str, pid: int, channels: Mapping[str, grpc.Channel]) -> bool:
    if service_pids(suite.data_dir).get(service) != pid:
        return False
    name = f"footfall.{service}.v1.{service.capitalize()}Service"
    stub: Any = health_pb2_grpc.HealthStub(channels[service])
    answer = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _figures(found: Outcome) -> list[Figure]:
    verdicts = found.verdicts
    return [
        Figure(PART, f"calls of {found.rpcs} RPCs", found.calls, "calls"),
        Figure(PART, "answered", verdicts.answered, "calls"),
        Figure(PART, "refused", verdicts.refused.total(), "calls"),
        Figure(
            PART,
            "failed, no known reason or not answered",
            verdicts.number_of_faults,
            "calls",
            0.0,
            at_least=False,
        ),
        Figure(PART, "let in without a right key", len(verdicts.let_in), "calls", 0.0, at_least=False),
        Figure(PART, "services that ended or do not answer", len(found.ended), "", 0.0, at_least=False),
        Figure(PART, "answers that differ from the recount", len(found.differences), "", 0.0, at_least=False),
        Figure(PART, "`footfall verify` failed", bool(found.verify), "", 0.0, at_least=False),
        *(
            Figure(PART, f"growth of the {service} process", growth, "MB", GROWTH_MEGABYTES, at_least=False)
            for service, growth in found.growth.items()
        ),
        Figure(PART, "calls a second", found.calls / found.seconds, "calls/s"),
    ]


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--count", type=int, default=_COUNT, help="how many calls are made")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000), help="of all chance")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    options = parser.parse_args()
    options.scale = 1.0
    return options


def _main() -> None:
    options = _parse_options()
    say(f"{PART}: seed {options.seed}; the same calls are made with --seed {options.seed}")
    with open_stage() as stage:
        suite = Suite(stage.connection, stage.folder, stage.database_url)
        found = fuzz(suite, options.seed, options.count)
        suite.close()
    for refusal, number in found.verdicts.refused.most_common():
        say(f"{PART}: {number:,} × {refusal}")
    for wrong in found.wrong[:_SHOWN]:
        say(f"{PART}: WRONG: {wrong}")
    report(_figures(found), options)
    if found.wrong:
        sys.exit(1)


if __name__ == "__main__":
    _main()
