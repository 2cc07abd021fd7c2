"""What attackers and loud neighbours can do to others: messages, streams, floods, many sites, unknown keys, reports.

    python -m bench.pressure [--scale 0.1] [--json FILE]

Each part also runs alone, as `python -m bench.pressure_<part>`. All load goes to suites of its own on loopback.
"""

import importlib
import importlib.util

from bench import pressure_aggregation, pressure_flood, pressure_keys, pressure_messages, pressure_streams
from bench.command_line import main
from bench.figures import Figure

_QUERY = "bench.pressure_query"


def measure(scale: float) -> list[Figure]:
    """The figures of every part."""
    parts = [pressure_messages, pressure_streams, pressure_flood, pressure_aggregation, pressure_keys]
    if importlib.util.find_spec(_QUERY):
        parts.append(importlib.import_module(_QUERY))
    return [figure for part in parts for figure in part.measure(scale)]


if __name__ == "__main__":
    main(__doc__, measure)
