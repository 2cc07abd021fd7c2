"""Where the metrics of a running suite are, in the form that Prometheus reads (file_sd_configs)."""

import json
import os
from collections.abc import Mapping
from pathlib import Path


def targets_file(data_dir: Path) -> Path:
    """The file of a data folder."""
    return data_dir / "metrics.json"


def write_targets(data_dir: Path, addresses: Mapping[str, str]) -> None:
    """Writes the host:port of each service's metrics."""
    groups = [{"targets": [address], "labels": {"service": service}} for service, address in addresses.items()]
    partial = data_dir / "metrics.partial"
    partial.write_text(json.dumps(groups, indent=2) + "\n")
    # Renamed, because Prometheus reads the file whenever it changes.
    os.replace(partial, targets_file(data_dir))


def metrics_urls(data_dir: Path) -> list[str]:
    """The URLs of the services' metrics. Raises OSError without the file."""
    return [
        f"http://{target}/metrics"
        for group in json.loads(targets_file(data_dir).read_text())
        for target in group["targets"]
    ]
