"""The dashboard and the alert rules in deploy/ name only metrics and labels that the running services have."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.footfall_site import FootfallSite
from tests.support.metrics import metrics_addresses, scraped
from tests.support.processes import running_service
from tests.support.refusals import batch, event

if TYPE_CHECKING:
    from tests.support.suite import Suite

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = DEPLOY / "grafana" / "footfall.json"
RULES = DEPLOY / "prometheus" / "alerts.yml"
OF_PROMETHEUS = {"up"}
"""Written by Prometheus itself for each target."""
ONLY_OF_WORKERS = {"footfall_worker_up"}
TARGET_LABELS = {"job", "service", "instance", "worker"}


def dashboard_queries() -> Iterator[str]:
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"].replace("$__rate_interval", "5m")


def named(expression: str) -> set[str]:
    """The metrics that an expression of PromQL names."""
    without_texts = re.sub(r'"[^"]*"', '""', expression)
    return set(re.findall(r"\b(?:footfall_\w+|process_\w+|up)\b(?!\s*\()", without_texts))


def labels_of(expression: str) -> set[str]:
    """The labels that an expression groups by or chooses by."""
    groups = re.findall(r"\bby \(([^)]*)\)", expression)
    return {label.strip() for group in groups for label in group.split(",")} | set(
        re.findall(r'(\w+)\s*(?:=|!=|=~|!~)\s*"', expression)
    )


@pytest.fixture(scope="module")
def known(suite: "Suite") -> dict[str, set[str]]:
    """The samples of all services after a little traffic, with their labels."""
    site = FootfallSite(suite, "dashboards")
    site.send(batch(event()))
    site.events()
    found: dict[str, set[str]] = {}
    environment = {"FOOTFALL_DATABASE_URL": suite.database_url, "FOOTFALL_METRICS_LISTEN": "127.0.0.1:0"}
    with running_service("admin", suite.data_dir, environment) as running:
        addresses = [*metrics_addresses(suite.data_dir).values(), running.log.with_suffix(".metrics").read_text()]
        for address in addresses:
            for family in scraped(address).values():
                # A family without samples yet has a name all the same.
                found.setdefault(family.name, set())
                for sample in family.samples:
                    found.setdefault(sample.name, set()).update(sample.labels)
    return found


def is_known(name: str, known: dict[str, set[str]]) -> bool:
    return name in known or name in OF_PROMETHEUS | ONLY_OF_WORKERS


def test_every_query_of_the_dashboard_names_metrics_that_exist(known: dict[str, set[str]]) -> None:
    queries = list(dashboard_queries())
    assert len(queries) > 20
    for query in queries:
        assert named(query), query
        assert not [name for name in named(query) if not is_known(name, known)], query


def test_every_alert_names_metrics_that_exist(known: dict[str, set[str]]) -> None:
    expressions = re.sub(r"#.*|summary:.*|- alert:.*", "", RULES.read_text())
    names = named(expressions)
    assert len(names) > 8
    assert not [name for name in names if not is_known(name, known)]
    assert labels_of(expressions) <= {label for name in names for label in known.get(name, set())} | TARGET_LABELS


def test_every_query_uses_labels_that_exist(known: dict[str, set[str]]) -> None:
    """A misspelt label is no error to Prometheus: the panel is empty, or the alert never fires."""
    for query in dashboard_queries():
        have = {label for name in named(query) for label in known.get(name, set())}
        if "footfall_busiest_site" in query:
            # These have no sample before the first full minute.
            have.add("site")
        assert labels_of(query) <= have | TARGET_LABELS, query


def test_promtool_accepts_the_rules_and_the_queries(tmp_path: Path) -> None:
    """Where promtool is installed."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    rules = "".join(
        f"   - record: panel:{number}\n     expr: {json.dumps(query)}\n"
        for number, query in enumerate(dashboard_queries())
    )
    (tmp_path / "queries.yml").write_text(f"groups:\n - name: panels\n   rules:\n{rules}")
    subprocess.run([promtool, "check", "rules", str(RULES), str(tmp_path / "queries.yml")], check=True)
    subprocess.run([promtool, "check", "config", str(DEPLOY / "prometheus" / "prometheus.yml")], check=True)
