"""The Prometheus rules and the Grafana dashboard ask for metrics and labels that the server has."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from cascade_serve.metrics import Metrics, process_families

DEPLOY = Path(__file__).parents[2] / "deploy"
# Word, optionally with label matchers behind it.
METRIC = re.compile(r"\b(cascade_[a-z_]+)(?:\{([^}]*)\})?")
RECORDED = re.compile(r"\bcascade:[a-z_0-9:]+")


@pytest.fixture(scope="module")
def rules() -> list[dict[str, Any]]:
    yaml: Any = pytest.importorskip("yaml")
    document = yaml.safe_load((DEPLOY / "prometheus" / "rules.yml").read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((DEPLOY / "grafana" / "cascade-serve.json").read_text())
    return loaded


def _expressions(rules: list[dict[str, Any]], dashboard: dict[str, Any]) -> Iterator[str]:
    yield from (rule["expr"] for rule in rules)
    yield from (target["expr"] for panel in dashboard["panels"] for target in panel["targets"])


@pytest.fixture(scope="module")
def sample_names() -> set[str]:
    registry = CollectorRegistry()
    Metrics(registry)
    suffixes = {"histogram": ("_bucket", "_count", "_sum"), "counter": ("_total",), "gauge": ("",)}
    families = [*registry.collect(), *process_families(0, 0)]
    return {family.name + suffix for family in families for suffix in suffixes[family.type]}


def test_every_metric_exists(rules: list[dict[str, Any]], dashboard: dict[str, Any], sample_names: set[str]) -> None:
    asked = {name for text in _expressions(rules, dashboard) for name, _ in METRIC.findall(text)}
    assert asked <= sample_names
    # The dashboard shows all that there is.
    bases = {re.sub(r"_(bucket|count|sum|total)$", "", name) for name in sample_names}
    assert {re.sub(r"_(bucket|count|sum|total)$", "", name) for name in asked} == bases


def test_every_recorded_series_is_recorded(rules: list[dict[str, Any]]) -> None:
    recorded = {rule["record"] for rule in rules if "record" in rule}
    used = {name for rule in rules for name in RECORDED.findall(rule["expr"])}
    assert used <= recorded


def test_parentheses_close(rules: list[dict[str, Any]], dashboard: dict[str, Any]) -> None:
    for text in _expressions(rules, dashboard):
        for left, right in ("()", "{}", "[]"):
            assert text.count(left) == text.count(right), text


def test_alerts_say_what_is_wrong(rules: list[dict[str, Any]]) -> None:
    alerts = [rule for rule in rules if "alert" in rule]
    assert alerts
    for alert in alerts:
        assert alert["labels"]["severity"] in {"page", "ticket"}
        assert "$labels.cascade" in alert["annotations"]["summary"]
        assert "for" in alert


def test_panels_are_told_apart(dashboard: dict[str, Any]) -> None:
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) == len({panel["title"] for panel in panels})
