"""Security and compliance section: the measures and who demands them, then each regulation and what meets it today."""

from collections import Counter

from archwright.catalog.tables.records import Regulation
from archwright.contract.decision import Section, SectionLine
from archwright.contract.evidence import Control
from archwright.contract.number_format import format_money, format_share
from archwright.plan.accounting.fleet import ChosenOption
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.evidence.controls import CONDITIONAL_TIERS, list_checks, list_controls
from archwright.plan.sections.guidance import fill_line, select_guidance

CERTIFIED = "A regulation certifies organisations; the controls are evidence for it."


def describe_controls(controls: tuple[Control, ...]) -> str:
    """Count the controls with a check, the checks that they share, and the tasks."""
    tasks = sum(control.is_task for control in controls)
    checked = f"{len(controls) - tasks} have a check, {len(list_checks(controls))} different checks in all"
    counts = f"{len(controls)} controls: {checked}; {tasks} are tasks, each with the role that owns it."
    return f"{counts} `archwright reconcile` runs the checks where `archwright up` runs the platform, on one machine."


def build_security_section(chosen: ChosenOption) -> Section:
    needs = chosen.needs
    controls = list_controls(needs, chosen.catalog, PlanProvenance())
    named = tuple(build_regulation_line(chosen.catalog.regulations[name], controls) for name in needs.regulations)
    return Section(
        id="security",
        title="Security and compliance",
        summary=f"{describe_controls(controls)} {CERTIFIED}",
        lines=(*select_guidance(chosen, "security"), *named),
    )


def build_regulation_line(regulation: Regulation, controls: tuple[Control, ...]) -> SectionLine:
    own = [control for control in controls if control.demanded_by.startswith(f"{regulation.id} ")]
    count = Counter(control.status for control in own)
    done = [control for control in own if not control.is_task]
    proofs = "; ".join(f"{control.demand} ({control.evidence})" for control in done)
    unproved = "each demand is a task of the organisation"
    values = {
        "name": regulation.name,
        "count": len(own),
        "built": count["built-in"],
        "configured": count["configured"],
        "commands": count["command"],
        "paper": count["organisational"],
        "later": count["later"],
        "reasons": "; ".join([f"checked: {proofs}" if done else unproved, *_describe_conditions(regulation)]),
    }
    return fill_line(
        "security.regulation",
        values,
        demanded_by=tuple(control.demanded_by for control in own),
        proof=done[0].id if done else f"archwright explain plan.json {own[0].id}",
        source=f"{regulation.source}, {regulation.as_of} ({regulation.confidence})",
    )


def _describe_conditions(regulation: Regulation) -> list[str]:
    found = []
    for tier, condition in CONDITIONAL_TIERS.items():
        count = sum(rule.tier == tier for rule in regulation.controls)
        if count:
            demands = "1 demand applies" if count == 1 else f"{count} demands apply"
            found.append(f"{demands} only {condition}: state it first")
    if regulation.deadlines:
        found.append("dates: " + ", ".join(f"{deadline.date} {deadline.what}" for deadline in regulation.deadlines))
    if (fine := regulation.fine) is not None:
        amount = format_money(fine.max_eur, "EUR")
        found.append(f"fine up to {amount} or {format_share(fine.max_turnover_share)} of turnover ({fine.clause})")
    return found
