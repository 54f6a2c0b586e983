"""The two pages for the board: money, models, limits, risks and what is asked, from the plan alone."""

from __future__ import annotations

from archwright.catalog.load import load_catalog
from archwright.contract.decision import CostDriver
from archwright.contract.estimate import exact_estimate
from archwright.contract.plan import StaffNeed
from archwright.contract.record import replace
from archwright.report.board import board_pages
from archwright.report.delivery_chapters import describe_machines, list_decisions, list_machine_events, list_tasks
from archwright.report.document import Callout, Document, Items, TableBlock
from archwright.report.document_builder import build_document
from archwright.report.risk_register import list_risks

from ..plan.option_samples import doubtful
from .full_plan import BOARD, DECISION, HYBRID


def tables(document: Document) -> dict[str, list[list[str]]]:
    blocks = [block for page in document.board for block in page.blocks if isinstance(block, TableBlock)]
    return {block.caption: [[cell.text for cell in row] for row in block.rows] for block in blocks}


def test_money_is_asked_by_year_and_resale_stands_apart(board: Document) -> None:
    rows = tables(board)["Money to approve, EUR"]
    assert [row[0] for row in rows] == [
        *(f"Year {n}, from Nov {2025 + n}" for n in range(1, 6)),
        "Total",
    ]
    assert rows[0][1] == "4.79 M" and rows[1][1] == "0" and rows[4][4] == "-420,000"
    assert rows[-1][1] == "4.79 M" and rows[-1][-1] == "17 M"


def test_three_choices_of_models_say_what_each_gives_up(board: Document) -> None:
    rows = tables(board)["Three choices of models"]
    assert [row[0] for row in rows] == ["This plan", "Best at up to 10 % more", "Best within the budget"]
    assert rows[2][1:] == ["24.1 M", "77 %", "DeepSeek-V3.2", "EUR 7.1 million over the horizon"]
    same = replace(DECISION, choices=(DECISION.choices[0], DECISION.choices[0], DECISION.choices[2]))
    rows = tables(build_document(replace(BOARD, decision=same), load_catalog()))["Three choices of models"]
    assert [row[-1] == "the same plan as above" for row in rows] == [False, True, False]
    limits = next(b for b in board.board[1].blocks if isinstance(b, Items) and b.title.startswith("Limits"))
    assert (
        limits.items[0].lead == "assistant: time to first token (p95)"
        and "2 s instead of 1 s saves 900,000 EUR" in limits.items[0].text
    )


def test_three_risks_have_mitigation_trigger_and_owner(board: Document) -> None:
    risks = list_risks(BOARD, HYBRID)
    assert len(tables(board)["Three risks"]) == 3 and len({risk.title for risk in risks}) == len(risks)
    assert [risk.weight for risk in risks] == sorted((risk.weight for risk in risks), reverse=True)
    shown = [row[0] for row in tables(board)["Three risks"]]
    assert shown == [risk.title for risk in risks if risk.title in shown], "the gravest first"
    for risk in risks:
        assert risk.mitigation and risk.trigger and risk.owner and "{" not in risk.cause + risk.trigger
        assert risk.probability in ("5 %", "5 to 50 %", "34 %")


def test_the_impact_of_a_fact_is_that_of_its_worse_end() -> None:
    estimate = replace(exact_estimate(280_000.0, "USD"), low=240_000.0, high=350_000.0)
    driver = CostDriver(basis="node.price", name="price", estimate=estimate, share=1.0)
    (risk,) = list_risks(
        replace(BOARD, decision=replace(DECISION, drivers=(driver,))), replace(HYBRID, notes=(), limits=())
    )
    bought = sum(line.total_over(60) for line in HYBRID.cost_lines if "node.price" in line.drivers)
    assert risk.impact is not None and abs(risk.impact - bought * 0.25) < 1


def test_the_alternative_says_when_it_is_better(board: Document) -> None:
    said = next(b.text for b in board.board[0].blocks if isinstance(b, Callout) and b.title == "Alternative:")
    assert (
        "cloud-aws-commit-3y costs 332,000 EUR less" in said
        and "is cheaper in 41" in said
        and "would be the choice if" in said
    )


def test_a_cheaper_option_that_was_passed_over_is_named_with_its_reason() -> None:
    other = next(one for one in BOARD.options if one.name == "cloud-aws-commit-3y")
    doubt = doubtful("assistant.ttft_p95_s", 1.0, 1.0)
    cheaper = replace(other, total_cost=exact_estimate(1e6, "EUR"), limits=(doubt,))
    plan = replace(BOARD, options=(HYBRID, cheaper))
    said = next(b.text for b in board_pages(plan, HYBRID)[0].blocks if isinstance(b, Callout))
    assert "cloud-aws-commit-3y costs 16 M EUR less" in said
    assert "It holds assistant: time to first token (p95) with 50 % only." in said


def test_the_condition_of_another_choice_names_no_key() -> None:
    price = exact_estimate(4.59, "USD/h")
    driver = CostDriver(
        basis="price.azure:uksouth:Standard_NC24", name="price per hour", estimate=price, share=0.1, flips_at=3.75
    )
    plan = replace(BOARD, decision=replace(DECISION, drivers=(replace(driver, flips_to="cloud-aws-commit-3y"),)))
    said = next(b.text for b in board_pages(plan, HYBRID)[0].blocks if isinstance(b, Callout))
    assert "would be the choice if the price per hour (azure, uksouth) were below 3.75" in said and "NC24" not in said


def test_decisions_fit_the_option_and_people_are_named() -> None:
    asked = " ".join(item.lead for item in list_decisions(BOARD, HYBRID))
    for text in ("Approve hybrid-own-base", "three vendors", "of power and 144 rack units", "Decide after the pilot"):
        assert text in asked
    need = StaffNeed(role="platform", needed=exact_estimate(1.5, "FTE"), team=1.0, hired=0.5, hours=200.0)
    named = " ".join(item.lead for item in list_decisions(BOARD, replace(HYBRID, staff=(need,))))
    assert "People: platform 1.5 FTE; to find or to hire: platform 0.5 FTE." in named
    assert "Relax one limit" in list_decisions(BOARD, None)[-1].lead


def test_a_model_that_no_engine_runs_is_a_task() -> None:
    note = "ear-1 is planned, not started by archwright. Deploy it behind an HTTP interface: NeMo: call(x) with a URL"
    option = replace(HYBRID, notes=(note,))
    plan = replace(BOARD, options=(option, *BOARD.options[1:]))
    (task,) = (one for one in list_tasks(plan, option) if "ear-1" in one.text)
    assert task.text.startswith("Deploy ear-1 behind an OpenAI-compatible URL (NeMo)")


def test_machines_that_pools_share_are_counted_once() -> None:
    shared = replace(HYBRID.purchases[1], shared_with=("assistant-eea",))
    twin = replace(HYBRID.purchases[0], kind="bought", peak=12, shared_with=("house-model",))
    assert describe_machines((shared, twin)) == ["12 x 8x H100 SXM (bought)"]
    assert describe_machines(HYBRID.purchases)[0] == "4 x 8x H100 SXM (already owned)"


def test_the_life_of_machines_is_on_the_roadmap() -> None:
    note = "node-a in FR: buy 3 in month 0; buy 1 in month 24; sell 3 in month 60"
    option = replace(HYBRID, notes=(note,))
    assert list_machine_events(option) == {24: ["buy 1 x node-a in FR"], 60: ["sell 3 x node-a in FR"]}
    document = build_document(replace(BOARD, options=(option, *BOARD.options[1:])), load_catalog())
    roadmap = next(c for part in document.parts for c in part.chapters if c.id == "roadmap")
    (table,) = (block for block in roadmap.blocks if isinstance(block, TableBlock))
    assert [row[0].text for row in table.rows][:3] == ["Procurement", "Pilot", "Machines, month 24"]
    assert table.rows[0][2].text == "Mar 2027" and table.rows[2][1].text == "Nov 2028"
