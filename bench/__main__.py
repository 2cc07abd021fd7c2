"""Runs all benchmarks, one after the other. Those that need 10 M events share them.

python -m bench [--scale 0.1] [--json FILE]
"""

import time

from bench import aggregate, compaction, growth, ingest, query, reports, sustained
from bench.big_site import load_sites, shape_at
from bench.command_line import parse_options, report
from bench.figures import Figure
from bench.own_suite import open_stage

MINUTES = 15.0


def measure(scale: float) -> list[Figure]:
    """The figures of every part, and the time they took."""
    began = time.monotonic()
    figures = []
    for part in (ingest, aggregate, sustained, compaction, reports):
        figures += part.measure(scale)
    with open_stage() as stage:
        [big] = load_sites(stage, {"big": shape_at(scale)})
        figures += query.measure_site(stage, big)
        figures += growth.measure_beside(stage, big, scale)
    minutes = (time.monotonic() - began) / 60
    return [*figures, Figure("all", "total time", minutes, "min", MINUTES, at_least=False)]


if __name__ == "__main__":
    options = parse_options(__doc__)
    report(measure(options.scale), options)
