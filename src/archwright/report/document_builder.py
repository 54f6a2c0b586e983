"""Builds the document of a plan, from which every format is rendered."""

from archwright.catalog.catalog import Catalog
from archwright.contract.plan import Plan
from archwright.report import decision_chapters as decision
from archwright.report import delivery_chapters as delivery
from archwright.report import evidence_chapters as evidence
from archwright.report import platform_chapters as platform
from archwright.report.board import board_pages
from archwright.report.document import Chapter, Document, DocumentPart, Item
from archwright.report.fact_sources import collect_bases, collect_sources
from archwright.report.plan_texts import clean_plan
from archwright.report.procurement import bill_chapter, list_positions
from archwright.report.risk_register import risk_register_chapter


def build_document(plan: Plan, catalog: Catalog) -> Document:
    """Two pages for the board, then parts for purchasing, engineers and reviewers. Empty chapters are left out."""
    digest, plan = plan.digest, clean_plan(plan)
    option = plan.chosen_option
    order = [bill_chapter(plan, option), delivery.roadmap_chapter(plan, option)] if option is not None else []
    order += [delivery.tasks_chapter(plan, option), risk_register_chapter(plan, option)]
    build = list[Chapter]()
    if option is not None:
        build += [platform.architecture_chapter(plan, option), platform.sizing_chapter(plan, option)]
    build += platform.section_chapters(plan, platform.PLATFORM_SECTIONS)
    sources, bases = collect_sources(plan, option, catalog), collect_bases(plan, option)
    check = [decision.options_chapter(plan, option)] if plan.options else []
    check += [decision.uncertainty_chapter(plan)] if plan.decision.drivers or plan.not_sized else []
    check += [evidence.predictions_chapter(plan)] if plan.predictions else []
    check += [evidence.assumptions_chapter(plan)] if plan.assumptions else []
    check += [evidence.sources_chapter(plan, sources, bases, catalog.digest), evidence.glossary_chapter()]
    parts = (
        DocumentPart("Order and delivery", _keep_filled(order)),
        DocumentPart("The platform", _keep_filled(build)),
        DocumentPart("Evidence", _keep_filled(check)),
    )
    return Document(
        title=f"AI platform plan for {plan.organisation}",
        subtitle=f"{plan.horizon_label}, {plan.currency}",
        sentence=decision.describe_decision(plan, option),
        facts=(
            Item("Created", plan.created_at[:10]),
            Item("Needs", f"{plan.needs_file.rpartition('/')[2]}, {plan.needs_digest[:12]}"),
            Item("Plan", digest[:12]),
            Item("Catalog", plan.catalog_digest[:12]),
        ),
        board=board_pages(plan, option),
        parts=tuple(part for part in parts if part.chapters),
        plan=plan,
        positions=list_positions(plan, option, catalog) if option is not None else (),
    )


def engineer_chapters(document: Document) -> dict[str, Chapter]:
    """The chapters after the pages for the board by their id, in the order of their parts."""
    chapters: dict[str, Chapter] = {}
    for part in document.parts:
        for chapter in part.chapters:
            chapters[chapter.id] = chapter
    return chapters


def _keep_filled(chapters: list[Chapter]) -> tuple[Chapter, ...]:
    return tuple(chapter for chapter in chapters if chapter.blocks)
