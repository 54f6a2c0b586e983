"""Files for promtool: rules, their unit tests from the cases, and panels as recording rules."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml
from tests.deploy.monitoring.conftest import Monitored
from tests.deploy.tools import require_program

# Intervals that the data source of Grafana fills in.
VARIABLES = {"$__rate_interval": "1m", "$__interval": "15s"}


def run_promtool(*arguments: str) -> tuple[int, str]:
    """Return exit status and output."""
    done = subprocess.run(
        [str(require_program("promtool")), *arguments], capture_output=True, text=True, check=False, timeout=300
    )
    return done.returncode, done.stdout + done.stderr


def fill_variables(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    return expression


def write_rules(made: Monitored, folder: Path) -> list[str]:
    """Write the rules of each group, and the queries of all panels as recording rules; return the files."""
    groups = {group.name: list(group.rules) for group in made.monitoring.groups}
    targets = [(panel["id"], target) for panel in made.panels for target in panel["targets"]]
    groups["panels"] = [
        {"record": f"panel:{number}:{index}", "expr": fill_variables(target["expr"])}
        for index, (number, target) in enumerate(targets)
    ]
    for name, rules in groups.items():
        (folder / f"{name}.yml").write_text(yaml.safe_dump({"groups": [{"name": name, "rules": rules}]}))
    return [str(folder / f"{name}.yml") for name in groups]


# Rules with another value of these labels cannot matter to an alert.
SCOPES = ("slo", "prediction")


def write_tests(made: Monitored, folder: Path) -> list[str]:
    """Write a test file, with the rules it needs, for each set of series of the cases; return the files."""
    found: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for alert in made.alerts:
        (case,) = made.find_cases(alert)
        found.setdefault(repr(case["series"]), []).append((case, alert))
    files = []
    for number, cases in enumerate(found.values()):
        first = cases[0][1]
        group = next(one for one in made.monitoring.groups if first in one.rules)
        rules = [rule for rule in group.rules if _is_related(rule, first)]
        name = f"test-{number}-{first['alert']}.yml"
        (folder / f"rules-{name}").write_text(yaml.safe_dump({"groups": [{"name": group.name, "rules": rules}]}))
        content = {"rule_files": [f"rules-{name}"], "evaluation_interval": "1m", "tests": [_build_test(cases)]}
        (folder / name).write_text(yaml.safe_dump(content, sort_keys=False))
        files.append(str(folder / name))
    return files


def _is_related(rule: dict[str, Any], alert: dict[str, Any]) -> bool:
    own, wanted = rule.get("labels", {}), alert["labels"]
    return all(own.get(name) in (None, wanted.get(name)) for name in SCOPES)


def _build_test(cases: list[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    checks = []
    for case, alert in cases:
        labels = {"alertname": alert["alert"], "alertstate": "firing", **alert["labels"]}
        firing = ",".join(f'{name}="{value}"' for name, value in labels.items())
        for state, number in (("quiet", 0), ("fires", 1), ("resolves", 0)):
            expected = [{"labels": "{}", "value": number}]
            expression = f"count(ALERTS{{{firing}}}) or vector(0)"
            for minute in _list_minutes(case.get(state)):
                checks.append({"expr": expression, "eval_time": f"{minute}m", "exp_samples": expected})
    series = [{"series": name, "values": str(values)} for name, values in cases[0][0]["series"].items()]
    return {"interval": "1m", "input_series": series, "promql_expr_test": checks}


def _list_minutes(minutes: int | list[int] | None) -> list[int]:
    if minutes is None:
        return []
    return minutes if isinstance(minutes, list) else [minutes]
