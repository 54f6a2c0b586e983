"""Builds the document of a plan, from which every format is rendered."""

from archwright.catalog.catalog import Catalog
from archwright.contract.plan import Plan
from archwright.report import cost_chapters as cost
from archwright.report import decision_chapters as decision
from archwright.report import evidence_chapters as evidence
from archwright.report import platform_chapters as platform
from archwright.report.document import Chapter, Document, DocumentPart, Item
from archwright.report.fact_sources import collect_bases, collect_sources
from archwright.report.number_format import clean_plan


def build_document(plan: Plan, catalog: Catalog) -> Document:
    """Parts for decision makers, engineers and reviewers, in this order. Empty chapters are left out."""
    digest, plan = plan.digest, clean_plan(plan)
    option = plan.chosen_option
    decide, build = [decision.decision_chapter(plan, option)], list[Chapter]()
    if option is not None:
        decide.append(cost.cost_summary_chapter(plan, option))
        build += [platform.architecture_chapter(plan, option), platform.sizing_chapter(plan, option)]
    if plan.options:
        decide.append(decision.options_chapter(plan))
    if option is not None:
        decide.append(cost.schedule_chapter(plan, option))
    decide.append(decision.risk_chapter(plan, option))
    build += platform.section_chapters(plan, platform.PLATFORM_SECTIONS)
    run = platform.section_chapters(plan, platform.PRACTICE_SECTIONS)
    check = [evidence.predictions_chapter(plan)]
    check += [evidence.controls_chapter(plan)] if plan.controls else []
    check += [cost.cost_lines_chapter(plan, option)] if option is not None and option.cost_lines else []
    check += [evidence.assumptions_chapter(plan)] if plan.assumptions else []
    sources, bases = collect_sources(plan, option, catalog), collect_bases(plan, option)
    check += [evidence.sources_chapter(plan, sources, bases, catalog.digest), evidence.glossary_chapter()]
    parts = (
        DocumentPart("The decision", tuple(decide)),
        DocumentPart("The platform", tuple(build)),
        DocumentPart("Build and operation", tuple(run)),
        DocumentPart("Evidence", tuple(check)),
    )
    return Document(
        title=f"AI platform plan for {plan.organisation}",
        subtitle=f"{plan.horizon_label}, {plan.currency}",
        sentence=decision.describe_decision(plan, option),
        facts=(
            Item("Created", plan.created_at[:10]),
            Item("Needs", f"{plan.needs_file}, {plan.needs_digest[:12]}"),
            Item("Plan", digest[:12]),
            Item("Catalog", plan.catalog_digest[:12]),
        ),
        parts=tuple(part for part in parts if part.chapters),
        plan=plan,
        sources=sources,
        bases=bases,
    )
