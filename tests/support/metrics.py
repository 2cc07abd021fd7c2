"""Metrics as Prometheus reads them: over HTTP, in the text format."""

import json
import urllib.request
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def scraped(address: str) -> dict[str, Metric]:
    """The families at a host:port, by name."""
    with _opener.open(f"http://{address}/metrics", timeout=20) as answer:
        return {family.name: family for family in text_string_to_metric_families(answer.read().decode())}


def metrics_addresses(data_dir: Path) -> dict[str, str]:
    """Where the services of a running suite serve their metrics, by service."""
    groups = json.loads((data_dir / "metrics.json").read_text())
    return {group["labels"]["service"]: group["targets"][0] for group in groups}


def value_of(families: dict[str, Metric], sample: str, **labels: str) -> float:
    """The sum of the samples of a name that have these labels; 0 if there is none."""
    return sum(
        found.value
        for family in families.values()
        for found in family.samples
        if found.name == sample and labels.items() <= found.labels.items()
    )
