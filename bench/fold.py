"""How many deltas a second folding moves into their hours and days.

    python -m bench.fold [--scale 0.1] [--json FILE]

The deltas are those that aggregating a backlog of two hours leaves: once in the pages that aggregation takes of
itself, so that an hour's key has few deltas, and once in small pages, as of a quiet site, so that it has many. The
yardstick, the bare loop that stores events, takes turns with it.
"""

import time

from admin_svc import compact
from bench.aggregate import drain
from bench.backlog import make_backlog, send_backlog
from bench.figures import Figure
from bench.part import main, say
from bench.stage import Stage, open_stage
from bench.yardstick import Yardstick

PART = "fold"
EVENTS = 100_000
_YARDSTICK_EVENTS = 50_000
_PAGES = {"large pages": 0, "small pages": 500}
"""Events of a page of aggregation; 0 = its own choice."""

_SIZE = """
SELECT count(*) FILTER (WHERE shard > 0), count(*) FILTER (WHERE shard = 0) FROM rollup_shards WHERE site_id = %s
"""


def measure(scale: float) -> list[Figure]:
    """Folds everything once, of few and of many pages, on a suite of its own."""
    figures = []
    with open_stage() as stage:
        requests = make_backlog(round(EVENTS * scale))
        yardstick = Yardstick(stage.database_url)
        yardstick.run(round(_YARDSTICK_EVENTS * scale))
        for name, page_events in _PAGES.items():
            site = name.replace(" ", "-")
            send_backlog(stage, stage.create_site(site), requests)
            drain(stage.connection, site, page_events)
            deltas, rows, seconds = _fold(stage, stage.site_id(site))
            yardstick.run(round(_YARDSTICK_EVENTS * scale))
            rate = deltas / seconds
            figures += [
                Figure(PART, f"{name}: deltas a second over the bare loop's rows", rate / yardstick.rate, "×"),
                Figure(PART, f"  {name}", rate, "deltas/s"),
                Figure(PART, f"  {name}: deltas that became one row", deltas / max(rows, 1)),
            ]
        return [*figures, Figure(PART, "bare loop", yardstick.rate, "rows/s")]


def _fold(stage: Stage, site_id: int) -> tuple[int, int, float]:
    """Deltas folded, rows they became, seconds."""
    with stage.database() as connection:
        # As autovacuum would have by now.
        connection.execute("ANALYZE rollup_shards")
        left, _ = connection.execute(_SIZE, (site_id,)).fetchone() or (0, 0)
        folded = 0
        began = time.perf_counter()
        while page := compact.run_once(connection, site_id, compact.DEFAULT_LIMIT).shards:
            folded += page
        seconds = time.perf_counter() - began
        assert folded == left, f"{folded} of {left} deltas were folded"
        _, rows = connection.execute(_SIZE, (site_id,)).fetchone() or (0, 0)
    say(f"fold: {folded:,} deltas into {rows:,} rows in {seconds:.1f} s")
    return folded, rows, seconds


if __name__ == "__main__":
    main(__doc__, measure)
