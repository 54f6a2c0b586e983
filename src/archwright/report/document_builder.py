"""From a plan to the document every format is made from."""

from __future__ import annotations

from archwright.catalog.catalog import Catalog
from archwright.contract.plan import Plan
from archwright.report import cost_chapters, decision_chapters, evidence_chapters, number_format, platform_chapters
from archwright.report.document import Chapter, Document, DocumentPart, Item
from archwright.report.fact_sources import collect_bases, collect_sources


def build_document(plan: Plan, catalog: Catalog) -> Document:
    """Parts in the order of their readers: who decides, who builds, who checks. What the plan lacks has no chapter."""
    digest, plan = plan.digest, number_format.clean_plan(plan)
    option = plan.chosen_option
    decide = [decision_chapters.decision_chapter(plan, option)]
    build: list[Chapter] = []
    if option is not None:
        decide.append(cost_chapters.cost_summary_chapter(plan, option))
        build += [platform_chapters.architecture_chapter(plan, option), platform_chapters.sizing_chapter(plan, option)]
    if plan.options:
        decide.append(decision_chapters.options_chapter(plan))
    if option is not None:
        decide.append(cost_chapters.schedule_chapter(plan, option))
    decide.append(decision_chapters.risk_chapter(plan, option))
    build += platform_chapters.section_chapters(plan, platform_chapters.PLATFORM_SECTIONS)
    run = tuple(platform_chapters.section_chapters(plan, platform_chapters.PRACTICE_SECTIONS))
    check = [evidence_chapters.predictions_chapter(plan)]
    check += [evidence_chapters.controls_chapter(plan)] if plan.controls else []
    check += [cost_chapters.cost_lines_chapter(plan, option)] if option is not None and option.cost_lines else []
    check += [evidence_chapters.assumptions_chapter(plan)] if plan.assumptions else []
    sources, bases = collect_sources(plan, option, catalog), collect_bases(plan, option)
    check += [
        evidence_chapters.sources_chapter(plan, sources, bases, catalog.digest),
        evidence_chapters.glossary_chapter(),
    ]
    parts = (
        DocumentPart("The decision", tuple(decide)),
        DocumentPart("The platform", tuple(build)),
        DocumentPart("How it is built and run", run),
        DocumentPart("Evidence", tuple(check)),
    )
    return Document(
        title=f"AI platform plan for {plan.organisation}",
        subtitle=f"{plan.horizon_label}, {plan.currency}",
        sentence=decision_chapters.describe_decision(plan, option),
        facts=_cover_facts(plan, digest),
        parts=tuple(part for part in parts if part.chapters),
        plan=plan,
        sources=sources,
        bases=bases,
    )


def _cover_facts(plan: Plan, digest: str) -> tuple[Item, ...]:
    return (
        Item("Made", plan.created_at[:10]),
        Item("Needs", f"{plan.needs_file}, {plan.needs_digest[:12]}"),
        Item("Plan", digest[:12]),
        Item("Catalog", plan.catalog_digest[:12]),
    )
