"""The busiest sites of the last minute or so, bounded in number."""

import heapq
import threading
import time
from collections.abc import Callable, Iterable

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

WINDOW_SECONDS = 60.0
MOST = 20
"""How many sites are shown."""
MOST_HELD = 10_000
"""How many sites are told apart within a window. Further ones are summed under the site ""."""


class Busiest(Collector):
    """Sums an amount for each site, and shows the 20 sites with the largest sums of the last window, a second of it.

    A window ends with the first scrape after a minute, so that calls need not look at a clock. A gauge of a window and
    no counter: a site that became loud just now is first at once, and a site that is no longer among the 20 leaves no
    series that stands still.
    """

    def __init__(self, name: str, help_text: str, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self._name, self._help = name, help_text
        self._clock = clock
        self._lock = threading.Lock()
        self._sums: dict[str, float] = {}
        self._last: list[tuple[str, float]] = []
        self._began = clock()

    def add(self, site: str, amount: float) -> None:
        """Adds to the sum of a site. Call it in the event loop's thread, the only one that adds."""
        sums = self._sums
        if site not in sums and len(sums) >= MOST_HELD:
            site = ""
        sums[site] = sums.get(site, 0.0) + amount

    def top(self) -> list[tuple[str, float]]:
        """The sites with the largest sums of the last window, and their amounts a second. Any thread may ask."""
        with self._lock:
            seconds = self._clock() - self._began
            if seconds >= WINDOW_SECONDS:
                # An amount that is being added just now is in one of the two, or is missed.
                sums, self._sums = self._sums, {}
                self._began += seconds
                largest = heapq.nlargest(MOST, list(sums.items()), key=lambda item: (item[1], item[0]))
                self._last = [(site, amount / seconds) for site, amount in largest]
            return self._last

    def describe(self) -> Iterable[Metric]:
        """The family without samples."""
        yield GaugeMetricFamily(self._name, self._help, labels=("site",))

    def collect(self) -> Iterable[Metric]:
        """The gauges."""
        family = GaugeMetricFamily(self._name, self._help, labels=("site",))
        for site, amount in self.top():
            family.add_metric((site,), amount)
        yield family
