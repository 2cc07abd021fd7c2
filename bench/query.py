"""How long a full dashboard of seven reports over 10 M events takes, compared with DuckDB and plain SQL.

    python -m bench.query [--scale 0.1] [--json FILE]

The product is called through gRPC. DuckDB has the same events in a table of its own, and two threads. Plain SQL with
`count(DISTINCT)` runs once, in the same Postgres. All other figures are medians of warm runs. The answers of all three
must be equal.
"""

import statistics
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

import duckdb

from bench.big_site import BigSite, load_sites, shape_at
from bench.command_line import main, say
from bench.dashboard import REPORTS, TOPS, Client, Dashboard, odd_ends, read_statements
from bench.figures import Figure
from bench.own_suite import Stage, open_stage, peak_memory

PART = "query"
OVER_DUCKDB = 25.0
OVER_PLAIN_SQL = 200.0

_ROUNDS = 10
_DUCKDB_ROUNDS = 3

# The same counts with visitors numbered, keys coded and hours computed beforehand, which is the best case for DuckDB.
_FACTS_TOP = """
SELECT key_{0}, count(*), count(DISTINCT visitor_no) FROM event_facts WHERE key_{0} >= 0
GROUP BY 1 ORDER BY 2 DESC LIMIT 10
"""
_FACTS = (
    "SELECT count(*), count(DISTINCT visitor_no) FROM event_facts",
    "SELECT hour, count(*), count(DISTINCT visitor_no) FROM event_facts GROUP BY 1 ORDER BY 1",
    *(_FACTS_TOP.format(dimension.number) for dimension in TOPS.values()),
)


def measure(scale: float) -> list[Figure]:
    """Loads the events into a suite of its own and measures."""
    with open_stage() as stage:
        [site] = load_sites(stage, {"big": shape_at(scale)})
        return measure_site(stage, site)


def measure_site(stage: Stage, site: BigSite) -> list[Figure]:
    """The figures for a loaded site, which must be the only one with many events."""
    client = Client(stage.connection, site.slug, site.span)
    with peak_memory([stage.service_pid("query")]) as peaks:
        answered = client.read()
        by_report = {report: _median(partial(client.ask, report), _ROUNDS) for report in REPORTS}
        whole = _median(client.ask_whole, _ROUNDS)
        odd = dashboard_seconds(Client(stage.connection, site.slug, odd_ends(site.span)))
    seven = dashboard_seconds(client)
    client.close()
    say(f"dashboard {seven * 1e3:,.0f} ms")
    by_duckdb, by_facts = _duckdb(site, answered)
    say(f"DuckDB {by_duckdb * 1e3:,.0f} ms")
    by_plain_sql = _plain_sql(stage, site, answered)
    say(f"plain SQL {by_plain_sql:,.1f} s")
    return [
        Figure(PART, "dashboard: how many times faster than DuckDB", by_duckdb / seven, "×", OVER_DUCKDB),
        Figure(PART, "dashboard: how many times faster than plain SQL", by_plain_sql / seven, "×", OVER_PLAIN_SQL),
        Figure(PART, "the same for DuckDB with visitors numbered and keys coded", by_facts / seven, "×"),
        Figure(PART, "events", site.shape.events),
        Figure(PART, "dashboard, seven calls in turn", seven * 1e3, "ms"),
        Figure(PART, "dashboard, one GetDashboard", whole * 1e3, "ms"),
        Figure(PART, "dashboard with both bounds inside hours", odd * 1e3, "ms"),
        *(Figure(PART, f"  {report}", seconds * 1e3, "ms") for report, seconds in by_report.items()),
        Figure(PART, "DuckDB, seven statements", by_duckdb * 1e3, "ms"),
        Figure(PART, "DuckDB with visitors numbered and keys coded", by_facts * 1e3, "ms"),
        Figure(PART, "plain SQL, seven statements", by_plain_sql, "s"),
        Figure(PART, "peak RSS of the query process", peaks[0], "MB"),
    ]


def dashboard_seconds(client: Client, rounds: int = _ROUNDS) -> float:
    """Median seconds of the seven reports, called one after the other."""

    def ask_all() -> None:
        for report in REPORTS:
            client.ask(report)

    return _median(ask_all, rounds)


def _duckdb(site: BigSite, answered: Dashboard) -> tuple[float, float]:
    """Median seconds of the dashboard over the events, and over the facts made of them."""
    with duckdb.connect(site.file, read_only=True, config={"threads": 2}) as connection:

        def run(statement: str) -> list[tuple[Any, ...]]:
            return connection.execute(statement).fetchall()

        where = _range("TIMESTAMP '{}'", site)
        found, _ = read_statements(run, where)
        _compare(answered, found, "DuckDB")
        seconds = _median(lambda: read_statements(run, where), _DUCKDB_ROUNDS)
        facts = _median(lambda: [run(statement) for statement in _FACTS], _DUCKDB_ROUNDS)
        return seconds, facts


def _plain_sql(stage: Stage, site: BigSite, answered: Dashboard) -> float:
    with stage.database() as connection:
        where = f"site_id = {site.site_id} AND " + _range("TIMESTAMPTZ '{} UTC'", site)
        found, seconds = read_statements(lambda statement: connection.execute(statement).fetchall(), where)
    _compare(answered, found, "Postgres")
    return sum(seconds.values())


def _range(literal: str, site: BigSite) -> str:
    start, end = (literal.format(_naive(instant)) for instant in site.span)
    return f"occurred_at >= {start} AND occurred_at < {end}"


def _naive(instant: datetime) -> str:
    return instant.strftime("%Y-%m-%d %H:%M:%S")


def _compare(answered: Dashboard, found: Dashboard, whose: str) -> None:
    """Raises AssertionError if the answers differ, because figures of wrong answers mean nothing."""
    for field in Dashboard._fields:
        own, other = getattr(answered, field), getattr(found, field)
        if own != other:
            raise AssertionError(f"{field} is {own!r} from Footfall and {other!r} from {whose}")


def _median(ask: Callable[[], object], rounds: int) -> float:
    seconds = []
    for _ in range(rounds):
        began = time.perf_counter()
        ask()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


if __name__ == "__main__":
    main(__doc__, measure)
