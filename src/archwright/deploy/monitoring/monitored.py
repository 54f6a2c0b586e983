"""The context entry `monitoring`: what is watched, with rule groups and dashboards of a deployment.

A document in templates/monitoring/rules is a group: `file` names it, `object` lists its rules. An alert also has a
`reason` and `predictions` from the plan, a `summary`, a `runbook` line, and perhaps the `command` to run.
"""

from typing import Any, NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.contract.metrics import FAILED_STATUSES, LIMITED_STATUS, METRICS
from archwright.deploy.deployment import Deployment
from archwright.deploy.monitoring.dashboards import Dashboard, build_dashboards
from archwright.deploy.monitoring.watched import BURN_RATES, WINDOWS, Watched, collect_watched
from archwright.deploy.rendering.templating import TemplateContext, expand_templates
from archwright.errors import InternalError

SEVERITIES = frozenset({"page", "ticket", "none"})
NOTES = ("summary", "reason", "predictions", "runbook", "command")


class Inhibition(NamedTuple):
    """While `source` fires, the alerts `targets` (separated by "|") with equal labels are silent.

    `source_labels`, `target_labels`: further labels of both, with the values (separated by "|") that match.
    """

    source: str
    targets: str
    equal: tuple[str, ...] = ()
    source_labels: tuple[tuple[str, str], ...] = ()
    target_labels: tuple[tuple[str, str], ...] = ()

    @property
    def source_matchers(self) -> tuple[tuple[str, str], ...]:
        return ("alertname", self.source), *self.source_labels

    @property
    def target_matchers(self) -> tuple[tuple[str, str], ...]:
        return ("alertname", self.targets), *self.target_labels


def _silence_slower_windows() -> tuple[Inhibition, ...]:
    """A fast burn of a service level says all that its slower windows say hours later."""
    windows = [rate.long for rate in BURN_RATES]
    return tuple(
        Inhibition(
            "ErrorBudgetBurn",
            "ErrorBudgetBurn",
            ("slo",),
            source_labels=(("window", window),),
            target_labels=(("window", "|".join(windows[place:])),),
        )
        for place, window in enumerate(windows[:-1], 1)
    )


INHIBITIONS: tuple[Inhibition, ...] = (
    Inhibition("GatewayDown", "ErrorBudgetBurn|GatewaySeriesAbsent|PredictionOutsideBand|QueueAbovePlan"),
    Inhibition("EngineDown", "EngineSeriesAbsent|NoReadyReplica|QueueAbovePlan|UpstreamFails", ("pool",)),
    Inhibition("NoReadyReplica", "QueueAbovePlan|UpstreamFails", ("pool",)),
    Inhibition("LoadAbovePlan", "PredictionOutsideBand", ("workload",)),
    *_silence_slower_windows(),
)


LABELS = {f"app.kubernetes.io/{key}": "monitoring" for key in ("name", "component")}
LABELS |= {"app.kubernetes.io/part-of": "archwright"}


class RuleGroup(NamedTuple):
    """Rules that are evaluated together, in the form of Prometheus."""

    name: str
    rules: tuple[dict[str, Any], ...]


class Runbook(NamedTuple):
    """The page of an alert, as Markdown. `file`: its path below the folder monitoring/ or the root of a bundle."""

    file: str
    text: str


class Monitoring(NamedTuple):
    """Names of templates that package monitoring. An alert arrives within 90 s: scrape, evaluation, `for`, group."""

    watched: Watched
    groups: tuple[RuleGroup, ...]
    dashboards: tuple[Dashboard, ...]
    runbooks: tuple[Runbook, ...]
    inhibitions: tuple[Inhibition, ...] = INHIBITIONS
    labels: dict[str, str] = LABELS
    scrape_s: int = 10
    evaluation_s: int = 10
    group_wait_s: int = 10


def build_monitoring(context: TemplateContext, deployment: Deployment, catalog: Catalog, engine_url: str) -> Monitoring:
    """Return the monitoring of a deployment. `context`: the other names that templates use."""
    watched = collect_watched(deployment, catalog, engine_url)
    scope = build_scope(context, watched)
    groups, dashboards = build_rule_groups(scope), build_dashboards(scope, deployment.name)
    return Monitoring(watched, groups, dashboards, build_runbooks(scope, groups))


def build_runbooks(context: TemplateContext, groups: tuple[RuleGroup, ...]) -> tuple[Runbook, ...]:
    """Return a page for each alert of the groups. Raises InternalError if an alert has none."""
    steps_of = {one.file: one.value for one in expand_templates("monitoring/runbooks", context)}
    rules = [rule for group in groups for rule in group.rules if "alert" in rule]
    first_rules = {rule["alert"]: rule for rule in reversed(rules)}
    missing = sorted(first_rules.keys() - steps_of.keys())
    if missing:
        raise InternalError("AW-INT-01", f"alerts without a runbook page: {', '.join(missing)}")
    return tuple(_build_runbook(name, steps_of[name], first_rules[name]) for name in sorted(first_rules))


def _build_runbook(name: str, steps: list[str], rule: dict[str, Any]) -> Runbook:
    lines = [f"{number}. {step}" for number, step in enumerate(steps, 1)]
    reason = rule["annotations"]["reason"]
    return Runbook(runbook_file(name), "\n".join([f"# {name}", "", f"Why it matters: {reason}.", "", *lines, ""]))


def runbook_file(alert: str) -> str:
    return f"runbooks/{alert}.md"


def build_scope(context: TemplateContext, watched: Watched) -> dict[str, object]:
    """Return the names that rules and panels use. `m`: our series by quantity."""
    names = {metric.quantity: metric.name for metric in METRICS}
    statuses = {"failed": "|".join(FAILED_STATUSES), "limited": LIMITED_STATUS}
    return {**context, "watched": watched, "m": names, **statuses, "rates": BURN_RATES, "windows": WINDOWS}


def build_rule_groups(context: TemplateContext) -> tuple[RuleGroup, ...]:
    """Return the groups that have rules, in the order of the templates."""
    found = [(one.file, one.value) for one in expand_templates("monitoring/rules", context) if one.value]
    return tuple(RuleGroup(name=name, rules=tuple(map(_build_rule, values))) for name, values in found)


def _build_rule(value: dict[str, Any]) -> dict[str, Any]:
    labels = {name: str(text) for name, text in value.get("labels", {}).items()}
    rule = {"expr": " ".join(value["expr"].split()), **({"labels": labels} if labels else {})}
    if "record" in value:
        return {"record": value["record"], **rule}
    if labels.get("severity") not in SEVERITIES or not value.get("runbook") or not value.get("reason"):
        raise InternalError("AW-INT-01", f"the alert {value['alert']} lacks a severity, a reason or a runbook")
    notes = {name: value.get(name, "") for name in NOTES} | {"predictions": ", ".join(value.get("predictions", ()))}
    notes["runbook_url"] = runbook_file(value["alert"])
    held = {"for": value["for"]} if "for" in value else {}
    return {"alert": value["alert"], **rule, **held, "annotations": {k: text for k, text in notes.items() if text}}
