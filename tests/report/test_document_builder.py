"""What a document says: the decision in one sentence, its chapters, and honestly what is missing."""

from __future__ import annotations

from typing import Any

from archwright.catalog.load import load_catalog
from archwright.contract.decision import Decision, Phase, Schedule
from archwright.contract.estimate import Estimate, exact_estimate
from archwright.contract.evidence import Query
from archwright.contract.record import replace
from archwright.report import decision_chapters, number_format
from archwright.report.document import (
    Block,
    Callout,
    Cell,
    CellNote,
    Document,
    Items,
    TableBlock,
    TextSpan,
    Tiles,
    split_links,
)
from archwright.report.document_builder import build_document

from ..plan.option_samples import EMPTY_PLAN
from .conftest import nothing_feasible
from .full_plan import BOARD, DECISION, HYBRID, OPTIONS

NB = number_format.SPACE


def build(**changes: Any) -> Document:
    return build_document(replace(BOARD, **changes), load_catalog())


def chapters(document: Document) -> list[str]:
    return [chapter.id for part in document.parts for chapter in part.chapters]


def said(document: Document, chapter: str) -> str:
    """Every word of a chapter."""
    found = [c for part in document.parts for c in part.chapters if c.id == chapter]
    assert len(found) == 1, chapter
    return repr((found[0].lead, found[0].blocks)).replace("\\xa0", NB)


def blocks(document: Document, chapter: str) -> tuple[Block, ...]:
    return next(c.blocks for part in document.parts for c in part.chapters if c.id == chapter)


def test_parts_follow_their_readers(board: Document) -> None:
    assert chapters(board) == [
        *("decision", "money", "options", "time", "risk"),
        *("architecture", "sizing", "network", "storage", "stack", "security", "scale", "monitoring"),
        *("stages", "practices", "providers"),
        *("promises", "controls", "costs", "assumptions", "sources", "reading"),
    ]


def test_the_decision_is_one_sentence() -> None:
    assert decision_chapters.describe_decision(BOARD, HYBRID) == (
        "Choose hybrid-own-base (own and rented machines at aws, in FR, eu-west-3, us-east-1 and ap-southeast-1): "
        f"EUR 17.0{NB}M over 60 months (90{NB}% interval 14.6 to 20.5{NB}M), "
        f"with EUR 4.79{NB}M of purchases over the horizon and EUR 189{NB}k per month without staff. "
        f"The case pays in 90{NB}% of the samples: by the figures of the needs, the goals bring EUR 114{NB}M, "
        f"EUR 98.0{NB}M more than the cost, paid back in month 4."
    )
    free = replace(HYBRID, capex=None, cost_per_month=None, regions=())
    plain = replace(BOARD, decision=replace(DECISION, returns=None))
    assert decision_chapters.describe_decision(plain, free).endswith("M).")
    assert decision_chapters.describe_decision(BOARD, replace(free, total_cost=None)).endswith("; it has no price.")


def test_a_case_that_does_not_pay_is_said_in_the_sentence(board: Document) -> None:
    assert DECISION.returns is not None
    lost = replace(
        DECISION.returns, net=Estimate(value=-2e6, low=-3e6, high=1e5, unit="EUR"), payback_month=None, pays=0.04
    )
    document = build(decision=replace(DECISION, returns=lost))
    assert document.sentence.endswith(
        f"The case does not pay: by the figures of the needs, the goals bring EUR 114{NB}M, EUR 2.00{NB}M less "
        f"than the cost; it pays in 4{NB}% of the samples."
    )
    asked = document.parts[0].chapters[0].blocks[0]
    assert isinstance(asked, Callout) and asked.tone == "bad" and "does not pay" in asked.text
    paid = board.parts[0].chapters[0].blocks[0]
    assert isinstance(paid, Callout) and paid.tone == "good" and "in the first month" in paid.text


def test_the_dates_of_every_option_stand_with_their_bands() -> None:
    ends = Estimate(value=8, low=5.6, high=14, unit="months")
    phases = (Phase(name="pilot", starts=exact_estimate(6, "months"), ends=ends),)
    dates = (Schedule(option="cloud-x", phases=()), Schedule(option=HYBRID.name, phases=phases))
    document = build(decision=replace(DECISION, schedules=dates))
    assert "Production is expected 8 months after the signature (5.6 to 14)" in said(document, "decision")
    assert "From the signature to full use" in said(document, "decision")
    table = next(b for b in blocks(document, "time") if isinstance(b, TableBlock))
    assert [column.title for column in table.columns] == ["Option", "Pilot ends"]
    assert [row[0].text for row in table.rows] == [HYBRID.name, "cloud-x"] and table.marked == 0
    assert table.rows[0][1] == Cell("month 8", (CellNote("", "5.6 to 14"),)) and table.rows[1][1].text == "none"


def test_nothing_feasible_says_so_and_what_is_nearest() -> None:
    document = build_document(nothing_feasible(), load_catalog())
    assert document.sentence == "None of the 6 options evaluated satisfies the needs."
    assert {"money", "time", "architecture", "sizing"} & set(chapters(document)) == set()
    single = replace(nothing_feasible(), options=nothing_feasible().options[:1])
    assert decision_chapters.describe_decision(single, None) == "The only option evaluated does not satisfy the needs."
    assert "capex 4,800,000, limit 1,000,000" in said(document, "decision")
    assert "Changes that make an option feasible" in said(document, "decision")
    assert "with budget.capex 4,800,000" in said(document, "decision")
    assert "the cheapest first" in said(document, "options") and "chosen" not in said(document, "options")[:200]
    assert "runs no part of this platform" in said(document, "promises")


def test_an_empty_plan_is_a_document() -> None:
    document = build_document(EMPTY_PLAN, load_catalog())
    assert document.sentence == "The plan contains no option."
    assert chapters(document) == ["decision", "risk", "promises", "sources", "reading"]


def test_a_dearer_choice_says_what_it_costs_more(board: Document) -> None:
    assert "It is not the cheapest: cloud-aws-commit-3y would cost EUR 332" in said(board, "decision")
    cheapest = build(chosen="cloud-aws-commit-3y")
    assert "It is the cheapest; the next, hybrid-own-base, costs EUR 332" in said(cheapest, "decision")
    only = build(options=(HYBRID, OPTIONS[-1]))
    assert "It is the only one" in said(only, "decision")
    free = replace(HYBRID, total_cost=None)
    assert "2 options evaluated, 0 feasible." in said(build(options=(free, OPTIONS[-1])), "decision")


def test_ties_flips_and_limits_at_risk_stand_on_the_first_page(board: Document) -> None:
    first = board.parts[0].chapters[0]
    assert any(isinstance(b, Callout) and b.title == "A tie" and "41" in b.text for b in first.blocks)
    items = {block.title: block.items for block in first.blocks if isinstance(block, Items)}
    assert [item.lead for item in items["Three facts to check before signing"]] == [
        d.name for d in DECISION.drivers[:3]
    ]
    assert "inside its interval" in items["Three facts to check before signing"][0].text
    assert "outside its interval" in items["Three facts to check before signing"][2].text
    assert items["Limits at risk"][0].lead.startswith("per_month limit 200,000")
    assert all(not item.lead.startswith("at risk") for item in items["Notes on this option"])


def test_facts_of_one_name_are_told_apart_and_one_fact_is_not_called_three() -> None:
    first, second = (replace(DECISION.drivers[0], basis=basis) for basis in ("price.own", "price.rent"))
    assert "price of a rented machine (rent)" in said(
        build(decision=replace(DECISION, drivers=(first, second))), "decision"
    )
    one = said(build(decision=replace(DECISION, drivers=DECISION.drivers[:1])), "decision")
    assert "Facts to check before signing" in one and "Three facts" not in one


def test_where_nothing_flips_the_strongest_facts_are_named_all_the_same() -> None:
    still = tuple(replace(driver, flips_to=None, flips_at=None) for driver in DECISION.drivers)
    document = build(decision=replace(DECISION, drivers=(*still[:3], DECISION.drivers[0])))
    named = next(b for b in blocks(document, "decision") if isinstance(b, Items) and b.title.startswith("Three facts"))
    assert len(named.items) == 3
    assert "27.9" in named.items[0].text
    assert named.items[1].text.endswith("no value within a factor of ten changes the choice")


def test_work_in_runs_says_on_what(board: Document) -> None:
    assert "no own pool" in said(board, "sizing")
    run = replace(HYBRID.purchases[0], pool="telemetry")
    document = build(options=(replace(HYBRID, purchases=(run,)), *OPTIONS[1:]))
    assert "batch runs on 8x H100 SXM" in said(document, "sizing")


def test_tiles_name_payback_and_break_even(board: Document) -> None:
    tiles = next(b for b in board.parts[0].chapters[0].blocks if isinstance(b, Tiles)).tiles
    shown = {tile.label: (tile.value, tile.note) for tile in tiles}
    assert shown["Break-even"] == ("month 48", "against cloud-azure")
    assert shown["Value of the goals, less cost"][1] == "paid back in month 4"
    assert DECISION.returns is not None
    never = replace(DECISION, returns=replace(DECISION.returns, payback_month=None))
    document = build(decision=never)
    assert "not paid back in time" in said(document, "decision")
    assert "does not cover the cost within the horizon" in said(document, "time")


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
    assert "controls" not in chapters(document)
    for part in document.parts:
        for chapter in part.chapters:
            assert all(block.rows for block in chapter.blocks if isinstance(block, TableBlock)), chapter.id
            assert all(block.items for block in chapter.blocks if isinstance(block, Items)), chapter.id


def test_a_missing_stack_section_is_the_stack_and_a_section_without_lines_its_summary() -> None:
    assert "Delta tables, existing, kept: https://lake.ardent.example" in said(build(sections=()), "stack")
    document = build(sections=(replace(BOARD.sections[0], lines=()), *BOARD.sections[1:]))
    assert said(document, "network") == repr((BOARD.sections[0].summary, ()))


def test_a_section_says_choice_why_proof_and_what_else(board: Document) -> None:
    network, (table,) = said(board, "network"), blocks(board, "storage")
    for text in ("400 Gbit/s RoCE", "Alternative", "InfiniBand NDR", "Why not", "archwright audit verify"):
        assert text in network
    assert f"2.4{NB}PB" in said(board, "storage"), "thousands, as the words of the section say it"
    assert isinstance(table, TableBlock) and len(table.columns) == 2, "no column for what no line has"


def test_a_promise_names_stratum_basis_and_query(board: Document) -> None:
    text = said(board, "promises")
    assert "unseen configuration of a seen model" in text
    assert 'histogram_quantile(0.95, sum by (le) (increase(archwright_ttft_seconds_bucket{workload="assistant"}' in text
    assert "step = max(FLOPs" in text


def test_a_metric_that_no_table_knows_is_asked_in_words() -> None:
    odd = replace(BOARD.predictions[0], query=Query(metric="mood", labels={}, statistic="mean", window_s=60.0))
    text = said(build(predictions=(odd,), bases=()), "promises")
    assert f"mean of mood over 60{NB}s" in text and "no basis in the plan" in text
    assert "PromQL" not in text


def test_sources_are_those_of_what_the_plan_names(board: Document) -> None:
    things = {source.thing: source for source in board.sources}
    assert things["H100-SXM-80GB"].kind == "accelerator"
    assert any(thing.startswith("gdpr: ") for thing in things)
    assert [basis.id for basis in board.bases] == [basis.id for basis in BOARD.bases if basis.id != "unused"]
    assert "1 more basis of other options" in said(board, "sources")
    assert "The plan was made with catalog a1b2a1b2a1b2" in said(board, "sources")
    same = build(catalog_digest=load_catalog().digest)
    assert "The plan was made with catalog" not in said(same, "sources")


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
