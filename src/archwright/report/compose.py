"""From a plan to the document every format is made from."""

from __future__ import annotations

from archwright.catalog.catalog import Catalog
from archwright.contract.plan import Plan
from archwright.report import business, engineering, evidence, money, words
from archwright.report.document import Chapter, Document, Item, Part
from archwright.report.sources import bases_behind, sources_of


def document_of(plan: Plan, catalog: Catalog) -> Document:
    """Parts in the order of their readers: who decides, who builds, who checks. What the plan lacks has no chapter."""
    digest, plan = plan.digest, words.cleaned(plan)
    option = plan.option
    decide = [business.decision_chapter(plan, option)]
    build: list[Chapter] = []
    if option is not None:
        decide.append(money.money_chapter(plan, option))
        build += [engineering.architecture_chapter(plan, option), engineering.sizing_chapter(plan, option)]
    if plan.options:
        decide.append(business.options_chapter(plan))
    if option is not None:
        decide.append(money.time_chapter(plan, option))
    decide.append(business.risk_chapter(plan, option))
    build += engineering.section_chapters(plan, engineering.PLATFORM)
    run = tuple(engineering.section_chapters(plan, engineering.PRACTICE))
    check = [evidence.promises_chapter(plan)]
    check += [evidence.controls_chapter(plan)] if plan.controls else []
    check += [money.costs_chapter(plan, option)] if option is not None and option.cost_lines else []
    check += [evidence.assumptions_chapter(plan)] if plan.assumptions else []
    sources, bases = sources_of(plan, option, catalog), bases_behind(plan, option)
    check += [evidence.sources_chapter(plan, sources, bases, catalog.digest), evidence.reading_chapter()]
    parts = (
        Part("The decision", tuple(decide)),
        Part("The platform", tuple(build)),
        Part("How it is built and run", run),
        Part("Evidence", tuple(check)),
    )
    return Document(
        title=f"AI platform plan for {plan.organisation}",
        subtitle=f"{plan.horizon}, {plan.currency}",
        sentence=business.sentence(plan, option),
        facts=_facts(plan, digest),
        parts=tuple(part for part in parts if part.chapters),
        plan=plan,
        sources=sources,
        bases=bases,
    )


def _facts(plan: Plan, digest: str) -> tuple[Item, ...]:
    return (
        Item("Made", plan.created_at[:10]),
        Item("Needs", f"{plan.needs_file}, {plan.needs_digest[:12]}"),
        Item("Plan", digest[:12]),
        Item("Catalog", plan.catalog_digest[:12]),
    )
