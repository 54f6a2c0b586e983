"""The monitoring of an example's deployment, with the names that its templates use, and the cases of its alerts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from tests.deploy.conftest import MadePlan

from archwright import __version__
from archwright.catalog.catalog import Catalog
from archwright.contract.plan import Plan
from archwright.deploy.deployment import build_deployment
from archwright.deploy.monitoring.monitored import Monitoring, build_scope
from archwright.deploy.render import build_context, find_target, select_option
from archwright.deploy.rendering.components import Pins
from archwright.deploy.rendering.templating import fill_value

CASES = Path(__file__).with_name("rule_cases.yaml")


class Monitored(NamedTuple):
    """`scope`: the names of templates. `cases`: series that make each alert fire (rule_cases.yaml)."""

    monitoring: Monitoring
    scope: dict[str, object]
    cases: list[dict[str, Any]]

    @property
    def rules(self) -> list[dict[str, Any]]:
        return [rule for group in self.monitoring.groups for rule in group.rules]

    @property
    def alerts(self) -> list[dict[str, Any]]:
        return [rule for rule in self.rules if "alert" in rule]

    @property
    def panels(self) -> list[dict[str, Any]]:
        return [panel for dashboard in self.monitoring.dashboards for panel in dashboard.model["panels"]]

    def find_cases(self, alert: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the cases whose labels are among the alert's."""
        named = (case for case in self.cases if case["alert"] == alert["alert"])
        labels = alert["labels"]
        return [case for case in named if all(labels.get(name) == str(text) for name, text in case["labels"].items())]


MadeMonitoring = Callable[..., Monitored]


@pytest.fixture(scope="session")
def monitored(made_plan: MadePlan, catalog: Catalog) -> MadeMonitoring:
    def make(plan: str | Plan, target: str, option: str | None = None) -> Monitored:
        made, row = made_plan(plan) if isinstance(plan, str) else plan, find_target(target)
        deployment = build_deployment(made, select_option(made, row, option, "plan.json"), catalog, {}, __version__)
        context = build_context(deployment, row, catalog, catalog.components, Pins(), {})
        monitoring = context["monitoring"]
        assert isinstance(monitoring, Monitoring)
        scope = build_scope(context, monitoring.watched)
        return Monitored(monitoring, scope, fill_value(yaml.load(CASES.read_bytes(), yaml.CSafeLoader), scope))

    return make
