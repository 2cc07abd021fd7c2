"""The metrics of several workers at one address: every series with the number of its worker."""

import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

_TIMEOUT_SECONDS = 5.0
# Never through a proxy: the workers listen on this machine.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class WorkersMetrics(Collector):
    """Reads the metrics of each worker when it is read itself, and gives each sample the label `worker`.

    Nothing is summed here: Prometheus does that, and notices that a worker was started again by its counters. The
    library's own mode for several processes knows no collectors of our own and keeps files of dead processes.
    """

    def __init__(self, addresses: Callable[[], Mapping[int, str]]) -> None:
        """`addresses` gives the host:port of each worker's metrics, by the worker's number; "" = not known yet."""
        self._addresses = addresses

    def registry(self) -> CollectorRegistry:
        """A registry with nothing else."""
        made = CollectorRegistry()
        made.register(self)
        return made

    def describe(self) -> Iterable[Metric]:
        """Nothing: the names are those of the workers."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """The metrics of all workers, and which of them have answered."""
        addresses = self._addresses()
        with ThreadPoolExecutor(max(1, len(addresses))) as threads:
            answers = dict(zip(addresses, threads.map(_read, addresses.values()), strict=True))
        up = GaugeMetricFamily("footfall_worker_up", "Whether a worker has answered this scrape", labels=("worker",))
        joined: dict[str, Metric] = {}
        for number, text in answers.items():
            up.add_metric((str(number),), float(text is not None))
            for family in text_string_to_metric_families(text or ""):
                into = joined.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                into.samples += [_of_worker(sample, number) for sample in family.samples]
        return [up, *joined.values()]


def _of_worker(sample: Sample, number: int) -> Sample:
    return sample._replace(labels={**sample.labels, "worker": str(number)})


def _read(address: str) -> str | None:
    if not address:
        return None
    try:
        with _opener.open(f"http://{address}/metrics", timeout=_TIMEOUT_SECONDS) as answer:
            return str(answer.read().decode())
    except (OSError, urllib.error.URLError):
        return None
