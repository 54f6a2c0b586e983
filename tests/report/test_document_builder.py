"""What a document says: the decision in one sentence, its chapters, and honestly what is missing."""

from __future__ import annotations

from typing import Any

from archwright.catalog.load import load_catalog
from archwright.contract.decision import Decision
from archwright.contract.estimate import Estimate
from archwright.contract.evidence import Query
from archwright.contract.record import replace
from archwright.report import decision_chapters
from archwright.report.document import (
    Block,
    Callout,
    Cell,
    Chapter,
    Document,
    Items,
    TableBlock,
    TextSpan,
    bind_units,
    split_links,
)
from archwright.report.document_builder import build_document
from archwright.report.fact_sources import collect_bases, collect_sources

from ..plan.option_samples import EMPTY_PLAN
from .conftest import nothing_feasible
from .full_plan import BOARD, DECISION, HYBRID, OPTIONS


def build(**changes: Any) -> Document:
    return build_document(replace(BOARD, **changes), load_catalog())


def chapters(document: Document) -> list[str]:
    return [chapter.id for part in document.parts for chapter in part.chapters]


def list_chapters(document: Document) -> list[Chapter]:
    return [*document.board, *(chapter for part in document.parts for chapter in part.chapters)]


def said(document: Document, chapter: str) -> str:
    """Every word of a chapter."""
    found = [c for c in list_chapters(document) if c.id == chapter]
    assert len(found) == 1, chapter
    return repr((found[0].lead, found[0].blocks))


def blocks(document: Document, chapter: str) -> tuple[Block, ...]:
    return next(c.blocks for c in list_chapters(document) if c.id == chapter)


def test_parts_follow_their_readers(board: Document) -> None:
    assert [page.id for page in board.board] == ["decision", "cost"]
    assert chapters(board) == [
        *("bill", "roadmap", "tasks", "risks"),
        *("architecture", "sizing", "network", "storage", "stack", "security", "scale", "monitoring"),
        *("options", "uncertainty", "predictions", "assumptions", "sources", "glossary"),
    ]


def test_the_decision_is_one_sentence() -> None:
    assert decision_chapters.describe_decision(BOARD, HYBRID) == (
        "Choose hybrid-own-base (own and rented machines at aws, in FR, eu-west-3, us-east-1 and ap-southeast-1): "
        "17 M EUR over 60 months (90 % band 14.6 to 20.5 M)."
    )
    assert decision_chapters.describe_decision(BOARD, replace(HYBRID, total_cost=None)).endswith("; it has no price.")


def test_a_case_that_does_not_pay_is_reported_in_the_sentence(board: Document) -> None:
    assert DECISION.returns is not None
    lost = replace(
        DECISION.returns, net=Estimate(value=-2e6, low=-3e6, high=1e5, unit="EUR"), payback_month=None, pays=0.04
    )
    document = build(decision=replace(DECISION, returns=lost))
    assert document.sentence.endswith(
        "The case does not pay: by the figures of the needs, the goals bring 114 M EUR, 2 M EUR less than the cost; "
        "it pays in 4 % of the samples."
    )
    assert "The case pays in 90" in said(board, "decision") and "does not pay" not in said(document, "decision")


def test_nothing_feasible_says_so_and_what_is_nearest() -> None:
    document = build_document(nothing_feasible(), load_catalog())
    assert document.sentence == "None of the 6 options evaluated satisfies the needs."
    assert {"bill", "roadmap", "architecture", "sizing"} & set(chapters(document)) == set()
    assert "Relax one limit of the needs" in said(document, "decision")
    single = replace(nothing_feasible(), options=nothing_feasible().options[:1])
    assert decision_chapters.describe_decision(single, None) == "The only option evaluated does not satisfy the needs."
    assert "capex 4.8 M, limit 1 M" in said(document, "decision")
    assert "Changes that make an option feasible" in said(document, "decision")
    assert "with budget.capex 4,800,000" in said(document, "decision")
    assert "the cheapest first" in said(document, "options") and "chosen" not in said(document, "options")[:200]


def test_an_empty_plan_is_a_document() -> None:
    document = build_document(EMPTY_PLAN, load_catalog())
    assert document.sentence == "The plan contains no option."
    assert chapters(document) == ["tasks", "glossary"]


def test_a_dearer_choice_says_what_it_costs_more(board: Document) -> None:
    assert "It is not the cheapest: cloud-aws-commit-3y would cost 332,000 EUR (2 %) less" in said(board, "decision")
    cheapest = build(chosen="cloud-aws-commit-3y")
    assert "It is the cheapest; the next, hybrid-own-base, costs 332,000 EUR (2 %) more" in said(cheapest, "decision")
    only = build(options=(HYBRID, OPTIONS[-1]))
    assert "It is the only one" in said(only, "decision")
    free = replace(HYBRID, total_cost=None)
    assert "2 options evaluated, 0 feasible." in said(build(options=(free, OPTIONS[-1])), "decision")


def test_a_tie_and_the_notes_stand_beside_the_options(board: Document) -> None:
    found = blocks(board, "options")
    assert any(isinstance(b, Callout) and b.title == "A tie" and "41" in b.text for b in found)
    notes = next(block for block in found if isinstance(block, Items))
    assert all(not item.lead.startswith(("at risk", "a tie")) for item in notes.items)


def test_work_in_runs_says_on_what(board: Document) -> None:
    assert "no own pool" in said(board, "sizing")
    run = replace(HYBRID.purchases[0], pool="telemetry")
    document = build(options=(replace(HYBRID, purchases=(run,)), *OPTIONS[1:]))
    assert "batch runs on 8x H100 SXM" in said(document, "sizing")


def test_every_option_is_in_the_table_and_the_chosen_one_is_marked(board: Document) -> None:
    table = next(b for b in blocks(board, "options") if isinstance(b, TableBlock))
    assert [row[0].text for row in table.rows] == [option.name for option in (HYBRID, *OPTIONS[1:])]
    assert table.marked == 0
    assert table.rows[-1][1] == Cell("no price", tone="quiet")
    assert "total cost, capex, carbon and risk" in table.note


def test_a_plan_without_a_decision_has_no_empty_tables() -> None:
    bare = replace(BOARD, decision=Decision(), sections=(), not_sized=(), stale_facts=(), controls=(), assumptions=())
    document = build_document(bare, load_catalog())
    assert "Pareto" not in said(document, "options")
    for chapter in list_chapters(document):
        assert all(block.rows for block in chapter.blocks if isinstance(block, TableBlock)), chapter.id
        assert all(block.items for block in chapter.blocks if isinstance(block, Items)), chapter.id


def test_a_missing_stack_section_is_the_stack_and_a_section_without_lines_is_left_out() -> None:
    assert "Delta tables, existing, kept: https://lake.ardent.example" in said(build(sections=()), "stack")
    document = build(sections=(replace(BOARD.sections[0], lines=()), *BOARD.sections[1:]))
    assert "network" not in chapters(document), "a chapter without a block is left out"


def test_a_section_says_choice_why_proof_and_what_else(board: Document) -> None:
    network, (table,) = said(board, "network"), blocks(board, "storage")
    for text in ("400 Gbit/s RoCE", "Alternative", "InfiniBand NDR", "Why not", "archwright audit verify"):
        assert text in network
    assert "2.4 PB" in said(board, "storage"), "thousands, as the words of the section say it"
    assert isinstance(table, TableBlock) and len(table.columns) == 2, "no column for what no line has"


def test_a_prediction_names_stratum_basis_and_query(board: Document) -> None:
    text = said(board, "predictions")
    assert "unseen configuration of a seen model" in text
    assert 'histogram_quantile(0.95, sum by (le) (increase(archwright_ttft_seconds_bucket{workload="assistant"}' in text
    assert "step = max(FLOPs" in text


def test_a_metric_that_no_table_knows_is_asked_in_words() -> None:
    odd = replace(BOARD.predictions[0], query=Query(metric="mood", labels={}, statistic="mean", window_s=60.0))
    text = said(build(predictions=(odd,), bases=()), "predictions")
    assert "mean of mood over 60 s" in text and "no basis in the plan" in text
    assert "PromQL" not in text


def test_sources_are_those_of_what_the_plan_names(board: Document) -> None:
    things = {source.thing: source for source in collect_sources(BOARD, HYBRID, load_catalog())}
    assert things["H100-SXM-80GB"].kind == "accelerator"
    assert any(thing.startswith("gdpr: ") for thing in things)
    assert [basis.id for basis in collect_bases(BOARD, HYBRID)] == [
        basis.id for basis in BOARD.bases if basis.id != "unused"
    ]
    assert "1 more basis of other options" in said(board, "sources")
    assert "The plan was made with catalog a1b2a1b2a1b2" in said(board, "sources")
    same = build(catalog_digest=load_catalog().digest)
    assert "The plan was made with catalog" not in said(same, "sources")


def test_a_number_and_its_unit_stay_on_one_line_of_a_page() -> None:
    text = "4.79 M EUR in 12 ms, 90 % of 216 MiB at 3 GB/s for 16 machines in month 3"
    bound = "4.79~M EUR in 12~ms, 90~% of 216~MiB at 3~GB/s for 16 machines in month 3"
    assert bind_units(text) == bound.replace("~", "\u00a0")


def test_addresses_become_links_and_nothing_else_does() -> None:
    assert split_links("see https://example.org/a_(b), then http://x.org.") == (
        TextSpan("see "),
        TextSpan("https://example.org/a_(b", "https://example.org/a_(b"),
        TextSpan("), then "),
        TextSpan("http://x.org", "http://x.org"),
        TextSpan("."),
    )
    assert split_links("javascript:alert(1) ftp://x") == (TextSpan("javascript:alert(1) ftp://x"),)
    assert split_links("") == ()


def test_machines_of_ones_own_have_no_price_an_hour() -> None:
    own = replace(HYBRID, pools=tuple(replace(pool, price_usd_per_hour=None) for pool in HYBRID.pools))
    bare = replace(own, power_kw=None, rack_units=None, energy_kwh_per_month=None, carbon_kg_per_month=None)
    document = build(options=(bare, *OPTIONS[1:]), workloads=())
    assert "USD per hour" not in said(document, "sizing")
    mixed = replace(HYBRID, pools=(own.pools[0], *HYBRID.pools[1:]))
    assert "not rented" in said(build(options=(mixed, *OPTIONS[1:])), "sizing")
    assert "Rack space" not in said(document, "sizing")
