"""The busiest sites of the last full minute, bounded in number."""

import heapq
import threading
import time
from collections.abc import Callable, Iterable

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

WINDOW_SECONDS = 60.0
MOST = 20
"""How many sites are shown."""
_MOST_HELD = 10_000
"""How many sites are told apart within a minute. Further ones are summed under the site ""."""


class Busiest(Collector):
    """Sums an amount for each site over one minute, and shows the 20 sites with the largest sums of the minute before.

    A gauge of a whole minute and no counter: a site that became loud just now is first at once, and a site that is no
    longer among the 20 leaves no series that stands still.
    """

    def __init__(self, name: str, help_text: str, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self._name, self._help = name, help_text
        self._clock = clock
        self._lock = threading.Lock()
        self._sums: dict[str, float] = {}
        self._last: dict[str, float] = {}
        self._ends = clock() + WINDOW_SECONDS

    def add(self, site: str, amount: float) -> None:
        """Adds to the sum of a site. Any thread may call it."""
        with self._lock:
            if self._clock() >= self._ends:
                self._turn()
            if site not in self._sums and len(self._sums) >= _MOST_HELD:
                site = ""
            self._sums[site] = self._sums.get(site, 0.0) + amount

    def top(self) -> list[tuple[str, float]]:
        """The sites with the largest sums of the last full minute, and their sums."""
        with self._lock:
            if self._clock() >= self._ends:
                self._turn()
            last = self._last
        return heapq.nlargest(MOST, last.items(), key=lambda item: (item[1], item[0]))

    def describe(self) -> Iterable[Metric]:
        """The family without samples."""
        yield GaugeMetricFamily(self._name, self._help, labels=("site",))

    def collect(self) -> Iterable[Metric]:
        """The gauges."""
        family = GaugeMetricFamily(self._name, self._help, labels=("site",))
        for site, amount in self.top():
            family.add_metric((site,), amount)
        yield family

    def _turn(self) -> None:
        late = self._clock() - self._ends
        # After a whole minute without a call the last full minute was empty.
        self._last = self._sums if late < WINDOW_SECONDS else {}
        self._sums = {}
        self._ends += WINDOW_SECONDS * (late // WINDOW_SECONDS + 1)
