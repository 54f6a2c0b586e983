"""Guidance rows to section lines: those that fit the plan, its numbers filled in, the user's own tools kept."""

from __future__ import annotations

import shlex

from archwright.catalog.tables.guidance_rows import Advice, Theme, read_advice
from archwright.contract.decision import SectionLine
from archwright.contract.needs import ExistingComponent
from archwright.plan.accounting.fleet import ChosenOption
from archwright.plan.sections.plan_traits import build_template_values, derive_traits

# The date of rows whose source is the plan at hand.
PLAN_DATE = "plan"
# How a tool of the user's own is measured, by its kind; the others are taken on trust.
EXISTING_TOOL_PROOFS = {
    "gateway": "archwright bench {url} --against plan.json",
    "engine": "archwright bench {url} --against plan.json",
    "monitoring": "archwright reconcile plan.json --prometheus {url}",
}


def select_guidance(chosen: ChosenOption, theme: Theme) -> tuple[SectionLine, ...]:
    """One line a topic: the first row that fits. What the user runs already stands in for the rows that it replaces."""
    traits, words = derive_traits(chosen), build_template_values(chosen)
    kept = {own.kind for own in chosen.needs.existing}
    lines: dict[str, SectionLine] = {}
    for row in read_advice(theme):
        fits = traits.issuperset(row.when) and traits.isdisjoint(row.unless)
        if row.topic not in lines and fits and row.kept not in kept:
            lines[row.topic] = _build_line(row, words, chosen)
    return tuple(lines.values())


def list_existing_tools(chosen: ChosenOption) -> tuple[SectionLine, ...]:
    """What an organisation runs already: named with its address, not priced."""
    return tuple(_build_existing_line(own) for own in chosen.needs.existing)


def _build_line(row: Advice, words: dict[str, str], chosen: ChosenOption) -> SectionLine:
    return SectionLine(
        topic=row.topic,
        choice=row.choice.format_map(words),
        why=row.why.format_map(words),
        demanded_by=tuple(name for name in row.clauses if name.partition(" ")[0] in chosen.needs.regulations),
        proof=row.proof,
        alternative=row.alternative.format_map(words),
        why_not=row.why_not.format_map(words),
        estimate=getattr(chosen.option, row.figure) if row.figure and chosen.option is not None else None,
        source=format_source(row),
    )


def format_source(row: Advice) -> str:
    """ "vendor's page, 2026-11 (low)": high confidence goes without saying, and so does the date of the plan itself."""
    if row.as_of == PLAN_DATE:
        return row.source
    return f"{row.source}, {row.as_of}" + ("" if row.confidence == "high" else f" ({row.confidence})")


def _build_existing_line(own: ExistingComponent) -> SectionLine:
    form = EXISTING_TOOL_PROOFS.get(own.kind, "") if own.url else ""
    place = f" at {own.url}" if own.url else ""
    unproved = "" if form else "; nothing of ours measures it yet" + ("" if own.url else ": the needs give no url")
    return SectionLine(
        topic=f"{own.kind.capitalize()}, kept",
        choice=f"{own.product}{place}",
        why=f"it runs already: kept and not priced{unproved}",
        proof=form.format(url=shlex.quote(own.url or "")),
    )
