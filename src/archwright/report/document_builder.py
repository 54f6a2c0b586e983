"""From a plan to the document every format is made from."""

from __future__ import annotations

from archwright.catalog.catalog import Catalog
from archwright.contract.plan import Plan
from archwright.report import cost_chapters, decision_chapters, evidence_chapters, number_format, platform_chapters
from archwright.report.document import Chapter, Document, Item, Part
from archwright.report.fact_sources import bases_behind, sources_of


def document_of(plan: Plan, catalog: Catalog) -> Document:
    """Parts in the order of their readers: who decides, who builds, who checks. What the plan lacks has no chapter."""
    digest, plan = plan.digest, number_format.cleaned(plan)
    option = plan.option
    decide = [decision_chapters.decision_chapter(plan, option)]
    build: list[Chapter] = []
    if option is not None:
        decide.append(cost_chapters.money_chapter(plan, option))
        build += [platform_chapters.architecture_chapter(plan, option), platform_chapters.sizing_chapter(plan, option)]
    if plan.options:
        decide.append(decision_chapters.options_chapter(plan))
    if option is not None:
        decide.append(cost_chapters.time_chapter(plan, option))
    decide.append(decision_chapters.risk_chapter(plan, option))
    build += platform_chapters.section_chapters(plan, platform_chapters.PLATFORM)
    run = tuple(platform_chapters.section_chapters(plan, platform_chapters.PRACTICE))
    check = [evidence_chapters.promises_chapter(plan)]
    check += [evidence_chapters.controls_chapter(plan)] if plan.controls else []
    check += [cost_chapters.costs_chapter(plan, option)] if option is not None and option.cost_lines else []
    check += [evidence_chapters.assumptions_chapter(plan)] if plan.assumptions else []
    sources, bases = sources_of(plan, option, catalog), bases_behind(plan, option)
    check += [
        evidence_chapters.sources_chapter(plan, sources, bases, catalog.digest),
        evidence_chapters.reading_chapter(),
    ]
    parts = (
        Part("The decision", tuple(decide)),
        Part("The platform", tuple(build)),
        Part("How it is built and run", run),
        Part("Evidence", tuple(check)),
    )
    return Document(
        title=f"AI platform plan for {plan.organisation}",
        subtitle=f"{plan.horizon}, {plan.currency}",
        sentence=decision_chapters.sentence(plan, option),
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
