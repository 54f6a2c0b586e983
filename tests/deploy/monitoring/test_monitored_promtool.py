"""Prometheus' and Alertmanager's own checkers on what examples render; each alert is quiet, fires and resolves."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml
from tests.deploy.conftest import MadeBundle
from tests.deploy.monitoring.conftest import MadeMonitoring
from tests.deploy.monitoring.promtool import fill_variables, run_promtool, write_rules, write_tests
from tests.deploy.tools import require_module, require_program

from archwright.deploy.rendering.bundle import FileBundle

pytestmark = pytest.mark.nightly
EXAMPLES = [("desk", "compose"), ("startup", "kubernetes"), ("manufacturer", "kubernetes"), ("clinic", "onprem")]


@pytest.mark.parametrize(("example", "target"), EXAMPLES)
def test_rules_and_panels_parse(monitored: MadeMonitoring, tmp_path: Path, example: str, target: str) -> None:
    made = monitored(example, target)
    status, output = run_promtool("check", "rules", *write_rules(made, tmp_path))
    assert status == 0, output
    parser = require_module("promql_parser", package="promql-parser")
    for rule in made.rules:
        parser.parse(rule["expr"])
    for panel in made.panels:
        for one in panel["targets"]:
            parser.parse(fill_variables(one["expr"]))


@pytest.mark.parametrize(("example", "target"), EXAMPLES[:2])
def test_each_alert_is_quiet_fires_and_resolves(
    monitored: MadeMonitoring, tmp_path: Path, example: str, target: str
) -> None:
    made = monitored(example, target)
    status, output = run_promtool("test", "rules", *write_tests(made, tmp_path))
    assert status == 0, output


@pytest.mark.parametrize(
    ("alert", "right", "wrong"),
    [
        ("EngineDown", "== 0 or absent", "== 2 or absent"),
        ("UpstreamFails", "archwright_breaker_open", "archwright_breaker_closed"),
        ("UpstreamFails", "archwright_upstream_healthy", "archwright_upstream_ill"),
    ],
)
def test_a_wrong_rule_is_found(monitored: MadeMonitoring, tmp_path: Path, alert: str, right: str, wrong: str) -> None:
    """Each condition of a rule has a time at which the rule fires by it alone."""
    made = monitored("desk", "compose")
    test = Path(next(file for file in write_tests(made, tmp_path) if alert in file))
    rules = test.with_name(f"rules-{test.name}")
    text = rules.read_text()
    assert right in text and run_promtool("test", "rules", str(test))[0] == 0
    rules.write_text(text.replace(right, wrong))
    assert run_promtool("test", "rules", str(test))[0] != 0
    rules.write_text(text.replace("(", "(summ(", 1))
    assert run_promtool("check", "rules", str(rules))[0] != 0


def write_monitoring(bundle: FileBundle, folder: Path) -> None:
    """Write the bundle's folder monitoring/ with secrets that are not empty."""
    for path, file in bundle.files.items():
        if path.startswith("monitoring/"):
            target = folder / path.removeprefix("monitoring/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(file.text)
    (folder / "secrets").mkdir()
    for name in ("gateway-key", "gateway-ca.crt", "page-url", "ticket-url", "dead-man-url"):
        (folder / "secrets" / name).write_text("http://127.0.0.1:9\n")


@pytest.mark.parametrize(("example", "target"), [("desk", "systemd"), ("desk", "compose"), ("clinic", "onprem")])
def test_configurations_are_accepted(made_bundle: MadeBundle, tmp_path: Path, example: str, target: str) -> None:
    write_monitoring(made_bundle(example, target), tmp_path)
    status, output = run_promtool("check", "config", "--syntax-only", str(tmp_path / "prometheus.yml"))
    assert status == 0, output
    amtool = str(require_program("amtool"))
    file = tmp_path / "alertmanager.yml"
    assert subprocess.run([amtool, "check-config", file], capture_output=True, check=False).returncode == 0
    config = yaml.load(file.read_text(), yaml.CSafeLoader)
    config["route"]["receiver"] = "nobody"
    file.write_text(yaml.safe_dump(config))
    assert subprocess.run([amtool, "check-config", file], capture_output=True, check=False).returncode != 0
