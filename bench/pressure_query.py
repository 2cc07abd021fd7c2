"""How long another site waits for its overview while one site asks for many reports that are hard to answer.

    python -m bench.pressure_query [--scale 0.1] [--json FILE]

The loud site has 1,000,000 events on 200,000 pages within 30 days, so that GetTop by visitors reads many sets. It is
asked by so many callers at once, each again as soon as it is answered or refused. The other site has 1,501 events. Then
callers ask and cancel, and the time is measured until Postgres runs nothing for them.
"""

import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import grpc
from footfall.admin.v1 import admin_pb2
from footfall.query.v1 import query_pb2, query_pb2_grpc
from footfall.type.v1 import time_range_pb2

from bench.command_line import main, say
from bench.dashboard import Span
from bench.figures import Figure
from bench.own_suite import Stage, open_stage
from bench.wide_site import load_few_events, load_many_keys
from common.dimensions import PAGE

PART = "pressure_query"
EVENTS = 1_000_000
KEYS = 200_000
CALLERS = (12, 50)
OVERVIEW_MS = 250.0
STOP_MS = 1_000.0

_SECONDS = 15.0
_PAUSE_SECONDS = 0.05
_TIMEOUT_SECONDS = 60
_LIFE = (datetime(1970, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))
_AT_WORK = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'footfall query' AND state <> 'idle'
"""


def measure(scale: float) -> list[Figure]:
    """Loads two sites into a suite of its own and measures."""
    with open_stage() as stage:
        for slug in ("quiet", "loud"):
            stage.create_site(slug)
        with stage.database() as connection:
            load_few_events(connection, stage.site_id("quiet"))
            span = load_many_keys(connection, stage.site_id("loud"), round(EVENTS * scale), round(KEYS * scale))
            connection.execute("VACUUM ANALYZE")
        say("pressure_query: sites loaded")
        return measure_pressure(stage, "loud", "quiet", span)


def measure_pressure(stage: Stage, loud: str, quiet: str, span: Span) -> list[Figure]:
    """The figures of two sites that are there already, each asked with a read key of its own."""
    overview = _overview(stage, quiet)
    overview()
    found = [Figure(PART, "overview of a quiet site, alone, median", statistics.median(_spent(overview, 3.0)), "ms")]
    say(f"{found[-1].name}: {found[-1].value:,.1f} ms")
    for callers in CALLERS:
        with _asking(stage, loud, span, callers) as answers:
            time.sleep(1.0)
            spent = sorted(_spent(overview, _SECONDS))
        what = f"overview of a quiet site, {callers} callers of another"
        found.append(Figure(PART, f"{what}, median", statistics.median(spent), "ms", OVERVIEW_MS, at_least=False))
        found.append(Figure(PART, f"{what}, slowest of {len(spent)}", spent[-1], "ms"))
        say(f"{what}: median {statistics.median(spent):,.1f} ms, slowest {spent[-1]:,.0f} ms; {dict(answers)}")
    stopped = _stopped(stage, loud, span)
    found.append(Figure(PART, "until 12 cancelled calls run no statement", stopped, "ms", STOP_MS, at_least=False))
    say(f"{found[-1].name}: {found[-1].value:,.0f} ms")
    return found


def _spent(ask: Any, seconds: float) -> list[float]:
    """How long each of the calls of so many seconds took, in ms."""
    found: list[float] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.perf_counter()
        ask()
        found.append((time.perf_counter() - began) * 1e3)
        time.sleep(_PAUSE_SECONDS)
    return found


@contextmanager
def _asking(stage: Stage, site: str, span: Span, callers: int) -> Iterator[dict[str, int]]:
    """So many callers ask while the block runs. Gives how many calls ended with each status."""
    ended, answers, lock = threading.Event(), dict[str, int](), threading.Lock()
    stub, call, request = _top(stage, site, span)

    def ask() -> None:
        while not ended.is_set():
            pending = stub.GetTop.future(request, **call)
            while not ended.wait(0.02) and not pending.done():
                pass
            pending.cancel()
            with lock:
                name = pending.code().name
                answers[name] = answers.get(name, 0) + 1
            if pending.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                ended.wait(1.0)

    threads = [threading.Thread(target=ask) for _ in range(callers)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def _stopped(stage: Stage, site: str, span: Span) -> float:
    """How long after the cancel Postgres still works for the callers, in ms."""
    stub, call, request = _top(stage, site, span)
    with stage.database() as connection:
        pending = [stub.GetTop.future(request, **call) for _ in range(12)]
        time.sleep(0.5)
        began = time.perf_counter()
        for one in pending:
            one.cancel()
        while connection.execute(_AT_WORK).fetchone() != (0,):
            time.sleep(0.01)
        return (time.perf_counter() - began) * 1e3


def _top(stage: Stage, site: str, span: Span) -> tuple[Any, dict[str, Any], query_pb2.GetTopRequest]:
    stub, call = _stub(stage, site)
    page = query_pb2.Dimension.ValueType(PAGE.number)
    order = query_pb2.ORDER_BY_VISITORS
    return (
        stub,
        call,
        query_pb2.GetTopRequest(site=site, range=_range(span), dimension=page, order_by=order, limit=1_000),
    )


def _overview(stage: Stage, site: str) -> Any:
    stub, call = _stub(stage, site)
    request = query_pb2.GetOverviewRequest(site=site, range=_range(_LIFE))
    return lambda: stub.GetOverview(request, **call)


def _stub(stage: Stage, site: str) -> tuple[Any, dict[str, Any]]:
    """On a channel of its own, with a new read key of the site."""
    with stage.connection.open_admin() as admin:
        made = admin.CreateApiKey(admin_pb2.CreateApiKeyRequest(kind=admin_pb2.API_KEY_KIND_READ, site=site))
    stub = query_pb2_grpc.QueryServiceStub(grpc.insecure_channel(stage.connection.query))
    return stub, {"metadata": (("authorization", f"Bearer {made.key}"),), "timeout": _TIMEOUT_SECONDS}


def _range(span: Span) -> time_range_pb2.TimeRange:
    wanted = time_range_pb2.TimeRange()
    wanted.start_time.FromDatetime(span[0])
    wanted.end_time.FromDatetime(span[1])
    return wanted


if __name__ == "__main__":
    main(__doc__, measure)
