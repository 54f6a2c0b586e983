"""Rules of Prometheus from the documents in templates/monitoring/rules.

A document is a group: `file` names it, `object` lists its rules. An alert has, besides the fields of Prometheus, a
`reason` and `predictions` from the plan, a `summary`, a `runbook` line, and perhaps the `command` to run.
"""

from typing import Any

from archwright.contract.record import Record
from archwright.deploy.templating import TemplateContext, expand_templates
from archwright.errors import InternalError

SEVERITIES = frozenset({"page", "ticket", "none"})
NOTES = ("summary", "reason", "predictions", "runbook", "command")


class RuleGroup(Record):
    """Rules that are evaluated together, in the form of Prometheus."""

    name: str
    rules: tuple[dict[str, Any], ...]


def build_rule_groups(context: TemplateContext) -> tuple[RuleGroup, ...]:
    """Return the groups in the order of the templates, without empty ones."""
    found: dict[str, list[dict[str, Any]]] = {}
    for one in expand_templates("monitoring/rules", context):
        found.setdefault(one.file, []).extend(map(_build_rule, one.value))
    return tuple(RuleGroup(name=name, rules=tuple(rules)) for name, rules in found.items() if rules)


def _build_rule(value: dict[str, Any]) -> dict[str, Any]:
    labels = {name: str(text) for name, text in value.get("labels", {}).items()}
    rule = {"expr": " ".join(value["expr"].split()), **({"labels": labels} if labels else {})}
    if "record" in value:
        return {"record": value["record"], **rule}
    if labels.get("severity") not in SEVERITIES or not value.get("runbook") or not value.get("reason"):
        raise InternalError("AW-INT-01", f"the alert {value['alert']} lacks a severity, a reason or a runbook")
    predictions = ", ".join(value.get("predictions", ()))
    notes = {name: predictions if name == "predictions" else value.get(name, "") for name in NOTES}
    held = {"for": value["for"]} if "for" in value else {}
    return {"alert": value["alert"], **rule, **held, "annotations": {k: text for k, text in notes.items() if text}}
