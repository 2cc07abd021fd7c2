"""Those who call while processes are killed: for reports, for maintenance, and for one rebuild."""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import grpc
from footfall.admin.v1 import admin_pb2
from footfall.query.v1 import query_pb2

from bench.refusals import Refusal, refusal_of
from tests.support.footfall_site import FootfallSite, time_range
from tests.support.rebuilding import rebuild_chunk
from tests.support.traffic import ODD, WHOLE

_PAUSE_SECONDS = 0.05
_TIMEOUT_SECONDS = 60.0
_TO_BE_TRIED_AGAIN = ("UNAVAILABLE", "RESOURCE_EXHAUSTED")

Call = Callable[[], object]


@dataclass
class Callers:
    """A thread that makes one call after the other while the block runs, whatever they are told."""

    calls: Sequence[Call]
    answered: int = 0
    refused: Counter[Refusal] = field(default_factory=Counter)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    @property
    def unexpected(self) -> list[Refusal]:
        """The refusals that no client would try again."""
        return sorted(refusal for refusal in self.refused if refusal.code not in _TO_BE_TRIED_AGAIN)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        assert self._thread is not None
        self._thread.join()

    def try_to(self, call: Callable[[], Any]) -> Any:
        """What the call returns; None if it is refused."""
        try:
            found = call()
        except grpc.RpcError as error:
            self.refused[refusal_of(error)] += 1
            return None
        self.answered += 1
        return found

    def _run(self) -> None:
        for call in itertools.cycle(self.calls):
            self.try_to(call)
            if self._stopping.wait(_PAUSE_SECONDS):
                return


@dataclass
class Rebuild:
    """One rebuild of a site, chunk by chunk, that begins at an instant of time.monotonic()."""

    site: FootfallSite
    begin_at: float
    done: bool = False
    _token: str = ""

    def step(self) -> bool:
        """Does the next chunk, unless it is too early or the rebuild is done; returns whether it is."""
        if not self.done and time.monotonic() >= self.begin_at:
            chunk = rebuild_chunk(self.site, self._token)
            self.done, self._token = not chunk.has_more, chunk.next_page_token
        return self.done


def query_calls(site: FootfallSite) -> list[Call]:
    """Reports and lists, over everything and over odd ends."""
    asked: dict[str, Any] = {"metadata": site.as_admin, "timeout": _TIMEOUT_SECONDS}
    dashboard = query_pb2.GetDashboardRequest(
        site=site.slug,
        range=time_range(*ODD),
        interval=query_pb2.INTERVAL_HOUR,
        tops=[query_pb2.TopSpec(dimension=query_pb2.DIMENSION_PAGE, limit=10)],
    )
    overview = query_pb2.GetOverviewRequest(site=site.slug, range=time_range(*WHOLE))
    events = query_pb2.ListEventsRequest(site=site.slug)
    return [
        lambda: site.query.GetDashboard(dashboard, **asked),
        lambda: site.query.GetOverview(overview, **asked),
        lambda: site.query.ListEvents(events, **asked),
    ]


def maintenance_calls(site: FootfallSite, rebuild: Rebuild) -> list[Call]:
    """What an operator does by hand, beside the schedule."""
    asked: dict[str, Any] = {"metadata": site.as_admin, "timeout": _TIMEOUT_SECONDS}
    aggregate = admin_pb2.AggregatePendingRequest(site=site.slug)
    compact = admin_pb2.CompactRollupsRequest(site=site.slug)
    return [
        lambda: site.operator.AggregatePending(aggregate, **asked),
        lambda: site.operator.CompactRollups(compact, **asked),
        lambda: site.operator.PruneExpired(admin_pb2.PruneExpiredRequest(), **asked),
        lambda: site.operator.GetStatus(admin_pb2.GetStatusRequest(), **asked),
        rebuild.step,
    ]
