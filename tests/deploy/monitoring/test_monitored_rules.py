"""Rules from the plan: what each alert says, that its names exist, and that a case shows it fire."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import pytest
import yaml
from tests.deploy.conftest import EXAMPLES, MadeBundle, MadePlan
from tests.deploy.monitoring.conftest import MadeMonitoring, Monitored

from archwright.contract.metrics import METRIC_BY_QUANTITY, METRICS
from archwright.deploy.monitoring.monitored import build_rule_groups
from archwright.deploy.monitoring.watched import BURN_RATES
from archwright.errors import InternalError

CASES = [
    ("desk", "compose"),
    ("desk", "systemd"),
    ("startup", "kubernetes"),
    ("clinic", "onprem"),
    ("manufacturer", "azure"),
]
# Series of Prometheus itself, node_exporter and the DCGM exporter.
FOREIGN = {
    *("up", "ALERTS", "node_filesystem_avail_bytes", "node_filesystem_size_bytes", "node_cpu_seconds_total"),
    *("node_memory_MemAvailable_bytes", "node_memory_MemTotal_bytes"),
    *("DCGM_FI_DEV_XID_ERRORS", "DCGM_FI_DEV_POWER_USAGE"),
    *("kube_cronjob_created", "kube_cronjob_status_last_successful_time"),
}
WORDS = {
    *("tenant", "model", "upstream", "state", "pool"),
    *("sum", "by", "rate", "increase", "count", "vector", "absent", "absent_over_time", "max", "min", "avg", "bool"),
    *("clamp_min", "and", "or", "on", "le", "histogram_quantile", "time", "avg_over_time", "predict_linear", "changes"),
    *("max_over_time", "sum_over_time", "last_over_time", "quantile_over_time", "job", "instance", "gpu", "process"),
    *("prediction", "reason", "status", "workload", "effect", "permission", "__rate_interval", "s", "m", "h", "d"),
}


def find_names(expression: str) -> set[str]:
    """Return the names of series in an expression: identifiers outside of selectors and windows."""
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\"[^\"]*\"", " ", expression)
    return set(re.findall(r"(?<![\w.])[A-Za-z_][\w:]*", bare)) - WORDS


@pytest.fixture(params=CASES, ids="-".join)
def made(request: pytest.FixtureRequest, monitored: MadeMonitoring) -> Monitored:
    return monitored(*request.param)


def test_every_name_in_rules_and_panels_has_a_source(made: Monitored) -> None:
    """No orphan names: ours are in contract/metrics.py, those of engines in the catalog, others recorded by a rule."""
    ours = {metric.name for metric in METRICS}
    ours |= {f"{metric.name}_{part}" for metric in METRICS if metric.kind == "histogram" for part in PARTS}
    watched = made.monitoring.watched
    engines = {
        name for watch in watched.pools for name in (*watch.series.values(), *(one[1] for one in watch.expected))
    }
    recorded = {rule["record"] for rule in made.rules if "record" in rule}
    known = ours | engines | recorded | FOREIGN
    for rule in made.rules:
        assert find_names(rule["expr"]) <= known, rule
    for panel in made.panels:
        for target in panel["targets"]:
            # A panel may show what a rule records only for other options.
            assert find_names(target["expr"]) <= known | {"cost:pool:usd_per_hour"}, panel["title"]
    used = {name for rule in made.rules for name in find_names(rule["expr"])}
    shown = {name for panel in made.panels for target in panel["targets"] for name in find_names(target["expr"])}
    assert recorded <= used | shown


PARTS = ("count", "sum", "bucket")


def test_an_unknown_name_is_found() -> None:
    assert find_names('sum by (le) (rate(x_seconds_bucket{a="b"}[5m])) / vector(2)') == {"x_seconds_bucket"}


def test_each_alert_says_what_happened_why_and_what_to_do(made: Monitored) -> None:
    assert made.alerts
    for alert in made.alerts:
        notes = alert["annotations"]
        assert alert["labels"]["severity"] in ("page", "ticket", "none")
        assert all(notes[name] for name in ("summary", "reason", "runbook")), alert
        if alert["alert"] in ("PredictionOutsideBand", "ErrorBudgetBurn"):
            assert notes["command"].startswith("archwright reconcile plan.json"), alert
        if alert["alert"] == "PredictionOutsideBand":
            assert notes["predictions"] == alert["labels"]["prediction"]
    assert [alert["alert"] for alert in made.alerts if alert["labels"]["severity"] == "none"] == ["DeadMan"]


def test_each_alert_has_one_case_and_each_series_one_rule(made: Monitored) -> None:
    found = [case for alert in made.alerts for case in made.find_cases(alert)]
    assert len(found) == len(made.alerts) == len(made.cases)
    assert all(case in found for case in made.cases)
    names = Counter(
        (rule.get("alert", rule.get("record")), *sorted(rule.get("labels", {}).items())) for rule in made.rules
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_burn_rates_follow_the_limits_of_the_needs(monitored: MadeMonitoring) -> None:
    made = monitored("clinic", "onprem")
    levels = {level.id: level for level in made.monitoring.watched.levels}
    ttft, availability = levels["letters.ttft_p95_s"], levels["letters.availability"]
    assert (ttft.budget, round(availability.budget, 6)) == (0.05, 0.001)
    assert ttft.reason.startswith(f"the needs state {ttft.stated:g} s, the plan predicts ")
    assert float(ttft.bound) in METRIC_BY_QUANTITY["ttft_s"].bounds
    assert ttft.stated <= float(ttft.bound) < 1.67 * ttft.stated
    assert [availability.find_threshold(rate) for rate in BURN_RATES] == pytest.approx([0.0144, 0.006, 0.001])
    assert ttft.find_threshold(BURN_RATES[0]) == pytest.approx(0.72)
    burns = [one for one in made.alerts if one["alert"] == "ErrorBudgetBurn"]
    assert len(burns) == 3 * len(levels)
    assert ttft.predictions == ("letters.ttft_s.p95",)


def test_predictions_of_the_chosen_option_are_compared_and_limits_of_others(
    monitored: MadeMonitoring, made_plan: MadePlan
) -> None:
    plan = made_plan("clinic")
    chosen = {band.prediction.id for band in monitored("clinic", "onprem").monitoring.watched.bands}
    assert chosen == {one.id for one in plan.predictions if one.metric != "control_held"}
    other = next(one.name for one in plan.options if one.placement == "cloud" and one.pools and one.provider == "aws")
    bands = monitored("clinic", "aws", other).monitoring.watched.bands
    assert bands and all(band.prediction.id.startswith("limit.") for band in bands)


def test_processes_are_watched_where_a_supervisor_measures_them(monitored: MadeMonitoring) -> None:
    def measured(target: str) -> set[str]:
        return {band.prediction.metric for band in monitored("desk", target).monitoring.watched.bands}

    assert measured("systemd") - measured("compose") == {"peak_memory_bytes", "startup_s", "disk_bytes"}


def test_only_engines_that_a_prometheus_reaches_are_expected(monitored: MadeMonitoring) -> None:
    def jobs(example: str, target: str) -> list[str]:
        return [watch.job for watch in monitored(example, target).monitoring.watched.engines]

    assert jobs("desk", "systemd") == []  # by sockets, seen by the gateway
    assert jobs("desk", "compose") == ["engine-assistant"]
    assert jobs("clinic", "onprem") == ["engine-letters"]


def test_an_alert_without_runbook_is_an_error(monitored: MadeMonitoring, monkeypatch: pytest.MonkeyPatch) -> None:
    scope = monitored("desk", "compose").scope
    rule = {"alert": "X", "expr": "vector(1)", "labels": {"severity": "page"}, "reason": "r", "summary": "s"}

    class Document:
        file, value = "x", [rule]

    monkeypatch.setattr("archwright.deploy.monitoring.monitored.expand_templates", lambda *_: [Document()])
    with pytest.raises(InternalError, match="runbook"):
        build_rule_groups(scope)
    rule["runbook"] = "do it"
    assert len(build_rule_groups(scope)) == 1


def test_examples_of_all_templates_are_watched(monitored: MadeMonitoring, made_plan: Callable[..., object]) -> None:
    assert {name for name, _ in CASES} == set(EXAMPLES)


@pytest.mark.parametrize(("example", "target"), [("desk", "systemd"), ("desk", "compose"), ("startup", "kubernetes")])
def test_a_stopped_engine_raises_an_alert_on_every_target(monitored: MadeMonitoring, example: str, target: str) -> None:
    """The series is the gateway's, so engines on sockets and pools that nobody asks at night are seen too."""
    made = monitored(example, target)
    pools = {watch.name for watch in made.monitoring.watched.pools}
    alerts = [alert for alert in made.alerts if alert["alert"] == "NoReadyReplica"]
    assert {alert["labels"]["pool"] for alert in alerts} == pools != set()
    assert all(alert["labels"]["severity"] == "page" for alert in alerts)


def test_a_faster_burn_silences_the_slower_ones_of_its_service_level(made_bundle: MadeBundle) -> None:
    files = made_bundle("desk", "systemd").files
    config = yaml.load(files["monitoring/alertmanager.yml"].text, yaml.CSafeLoader)
    burns = [rule for rule in config["inhibit_rules"] if 'alertname="ErrorBudgetBurn"' in rule["source_matchers"]]
    assert [(rule["source_matchers"][1], rule["target_matchers"][1], rule["equal"]) for rule in burns] == [
        ('window="1h"', 'window=~"6h|3d"', ["slo"]),
        ('window="6h"', 'window=~"3d"', ["slo"]),
    ]
    assert "slo" in config["route"]["group_by"]


def test_the_objects_of_the_operator_say_the_same(made_bundle: MadeBundle) -> None:
    files = made_bundle("startup", "kubernetes").files
    text = next(file.text for path, file in files.items() if path.endswith("base/monitoring.yaml"))
    objects = [one for one in yaml.load_all(text, yaml.CSafeLoader) if one["kind"] == "AlertmanagerConfig"]
    (spec,) = (one["spec"] for one in objects)
    assert "slo" in spec["route"]["groupBy"]
    assert {
        "sourceMatch": [
            {"name": "alertname", "value": "ErrorBudgetBurn", "matchType": "="},
            {"name": "window", "value": "1h", "matchType": "="},
        ],
        "targetMatch": [
            {"name": "alertname", "value": "ErrorBudgetBurn", "matchType": "=~"},
            {"name": "window", "value": "6h|3d", "matchType": "=~"},
        ],
        "equal": ["slo"],
    } in spec["inhibitRules"]


@pytest.mark.parametrize(
    ("example", "target", "folder"),
    [("desk", "systemd", "monitoring/"), ("desk", "compose", "monitoring/"), ("startup", "kubernetes", "")],
)
def test_each_alert_links_a_page_of_the_bundle_with_steps(
    monitored: MadeMonitoring, made_bundle: MadeBundle, example: str, target: str, folder: str
) -> None:
    files = made_bundle(example, target).files
    for alert in monitored(example, target).alerts:
        text = files[folder + alert["annotations"]["runbook_url"]].text
        assert text.startswith(f"# {alert['alert']}\n") and "\n3. " in text, text
