"""Security and compliance: what is chosen and who demands it, then each regulation with what answers it today."""

from __future__ import annotations

from collections import Counter

from archwright.catalog.tables.records import Regulation
from archwright.contract.decision import Section, SectionLine
from archwright.contract.evidence import Control
from archwright.plan.accounting.fleet import ChosenOption
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.evidence.controls import list_controls
from archwright.plan.sections.guidance import select_guidance

# Demands that count only for some uses or roles, which the needs do not state.
CONDITIONAL_TIERS = {
    "high_risk": "if the use is of high risk",
    "gpai_provider": "for whoever provides a general-purpose model",
}


def build_security_section(chosen: ChosenOption) -> Section:
    needs = chosen.needs
    controls = list_controls(needs, chosen.catalog, PlanProvenance())
    named = tuple(build_regulation_line(chosen.catalog.regulations[name], controls) for name in needs.regulations)
    proved = sum(control.status == "built-in" for control in controls)
    return Section(
        id="security",
        title="Security and compliance",
        summary=(
            f"{len(controls)} controls: {proved} are proved by what runs, the others say whether they need a setting, "
            "paper, or a later release. A regulation certifies organisations, not software: this is evidence for it."
        ),
        lines=(*select_guidance(chosen, "security"), *named),
    )


def build_regulation_line(regulation: Regulation, controls: tuple[Control, ...]) -> SectionLine:
    own = [control for control in controls if control.demanded_by.startswith(f"{regulation.id} ")]
    count = Counter(control.status for control in own)
    done = [control for control in own if control.status in ("built-in", "configured")]
    reasons = [_describe_proofs(done), *_describe_conditions(regulation)]
    return SectionLine(
        topic=regulation.name,
        choice=(
            f"{len(own)} demands: {count['built-in']} built in, {count['configured']} by a setting, "
            f"{count['organisational']} on paper, {count['later']} in a later release"
        ),
        why="; ".join(reasons),
        demanded_by=tuple(control.demanded_by for control in own),
        proof=done[0].id if done else "",
        source=f"{regulation.source}, {regulation.as_of} ({regulation.confidence})",
    )


def _describe_proofs(done: list[Control]) -> str:
    if not done:
        return "nothing of it is proved by this release: each demand is paper or comes with a later release"
    return "proved: " + "; ".join(f"{control.demand} ({control.evidence})" for control in done)


def _describe_conditions(regulation: Regulation) -> list[str]:
    """What else a reader must know: demands that depend on use and role, deadlines, the fine."""
    said = []
    for tier, when in CONDITIONAL_TIERS.items():
        count = sum(rule.tier == tier for rule in regulation.controls)
        if count:
            said.append(f"{count} {'demand counts' if count == 1 else 'demands count'} only {when}: to be stated first")
    if regulation.deadlines:
        said.append("dates: " + ", ".join(f"{deadline.date} {deadline.what}" for deadline in regulation.deadlines))
    if regulation.fine is not None:
        fine = regulation.fine
        said.append(f"fine up to {fine.max_eur:,.0f} EUR or {fine.max_turnover_share:.0%} of turnover ({fine.clause})")
    return said
