"""The terminal output of a plan, a difference and a "what if"."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from archwright.cli import show, show_diff, show_plan
from archwright.contract.decision import CostDriver, Decision, ReturnOnInvestment, Rival
from archwright.contract.estimate import Estimate, exact_estimate, within_factor
from archwright.contract.plan import ConstraintViolation, CostLine, MachineFacts, Option, Plan
from archwright.contract.record import replace
from archwright.needs.template import read_template
from archwright.plan.explain.diff import TextChange, diff_plans
from archwright.plan.explain.what_if import compare_what_if
from archwright.plan.plan_file import write_plan

from ..command_line import CommandLine, squeeze


def option(name: str, cost: float | None, *misses: ConstraintViolation, **more: Any) -> Option:
    price = None if cost is None else within_factor(cost, 1.2, "EUR", "null")
    return Option(
        name=name,
        placement="cloud",
        provider=name,
        regions=("eu-1",),
        feasible=not misses,
        misses=misses,
        total_cost=price,
        cost_per_month=None if price is None else price.scaled(1 / 12, unit="EUR/month"),
        capex=None if price is None else exact_estimate(more.pop("capex", 0.0), "EUR"),
        cost_without_staff=None if price is None else price.scaled(0.8),
        models={"assistant": "null-model"},
        **more,
    )


def driver(name: str, at: float | None, to: str | None, *, inside: bool, share: float = 0.3) -> CostDriver:
    price = Estimate(value=4.0, low=3.0, high=5.0, unit="USD/h", basis=name)
    return CostDriver(
        basis=name, name="price of it", estimate=price, share=share, flips_to=to, flips_at=at, inside=inside
    )


LINES = (
    CostLine(name="rent", amount=exact_estimate(1000.0, "EUR/month", "null"), category="compute"),
    CostLine(name="servers", amount=exact_estimate(9000.0, "EUR", "null"), once=True, category="purchase"),
)
DECISION = Decision(
    axes=("total_cost", "carbon_kg_per_month"),
    pareto=("best", "near"),
    rivals=(Rival(option="near", cheaper=0.44, tie=True), Rival(option="dear", cheaper=0.02, tie=False)),
    drivers=(driver("price.a", 4.5, "near", inside=True), driver("price.b", 9.0, None, inside=False)),
    confidence={"high": 0.6, "low": 0.398, "very low": 0.002},
    returns=ReturnOnInvestment(
        value=50000.0,
        cost=exact_estimate(21000, "EUR"),
        net=within_factor(29000, 1.1, "EUR"),
        payback_month=5,
        pays=0.9,
    ),
)


@pytest.fixture
def decided(null_plan: Plan) -> Plan:
    options = (
        option("late", 18000, ConstraintViolation(constraint="assistant.ttft_p95_s", value=0.9, limit=0.2)),
        option("slow", 17000, ConstraintViolation(constraint="assistant.availability", value=0.98, limit=0.999)),
        option("far", None, ConstraintViolation(constraint="residency", value="no offer inside", limit="EEA")),
        option("none", None, ConstraintViolation(constraint="x.model", value=None, limit="a model")),
        option("dear", 30000),
        option("near", 21500),
        option("best", 21000, capex=9000.0, cost_lines=LINES, notes=("at risk: [bold]x[/]",)),
        option("odd", 99000),
    )
    return replace(null_plan, chosen="best", options=options, decision=DECISION)


def test_a_plan_is_shown_by_the_view_of_the_board(decided: Plan, cli: CommandLine) -> None:
    named = replace(decided, organisation="[bold]x[/]")
    text = cli.printed(show_plan.print_plan, named)
    assert "Plan for [bold]x[/]" in text, "markup in names is text"
    chapters = ["Recommendation", "Cost, models and risks", "Options"]
    assert [line.strip() for line in text.splitlines() if line.strip() in chapters] == chapters
    assert "2 further options: archwright explain plan.json options" in text
    without = cli.printed(show_plan.print_plan, replace(decided, chosen=None, decision=Decision(), predictions=()))
    assert "No option meets the needs" in without and "Recommendation" not in without


def test_the_machine_stale_facts_and_gaps_stand_beside_the_view(decided: Plan, cli: CommandLine) -> None:
    machine = MachineFacts(
        cores_usable=2,
        memory_bytes=8 << 30,
        memory_bandwidth_bytes_per_s=within_factor(9e9, 1.1, "bytes/s"),
        matmul_flops_per_s=within_factor(9e10, 1.1, "FLOP/s"),
        disk_write_bytes_per_s=within_factor(2e8, 1.2, "bytes/s"),
        disk_free_bytes=50 << 30,
        isa="avx512",
        gpus=(),
        probed_at=1.7e9,
    )
    stale = tuple(f"fact {number}" for number in range(5))
    full = replace(decided, machine=machine, stale_facts=stale, not_sized=("x: later",))
    text = cli.printed(show_plan.print_plan, full)
    assert "this machine: 2 cores (avx512), 8 GiB memory" in text and "GPU: none" in text
    assert "not sized yet: x: later" in text
    assert "stale: fact 2" in text and "fact 3" not in text and "and 2 more stale facts" in text


def test_the_nearest_option_names_its_missed_limits(null_plan: Plan, cli: CommandLine) -> None:
    miss = ConstraintViolation(constraint="assistant.latency_p95_s", value=0.9, limit=0.2)
    slow = replace(null_plan.options[0], feasible=False, misses=(miss,))
    text = cli.printed(show_plan.print_plan, replace(null_plan, options=(slow,)))
    assert "Nearest option, which violates limits of the needs: this-machine" in " ".join(text.split())
    assert "assistant.latency_p95_s 200 ms 900 ms exact" in " ".join(text.split())
    assert "The load of the machine" not in text, "it was not probed"


@pytest.mark.parametrize(
    ("share", "state"), [(0.6, "was busy: other programs used 60 %"), (0.02, "was not busy"), (None, "is unknown")]
)
def test_the_load_during_the_probe_is_stated(
    share: float | None, state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    show.print_probe_load(show.make_console(), share)
    text = capsys.readouterr().out
    assert state in text and "archwright up" in text


# --- differences


def test_a_difference_says_why_and_what(decided: Plan, cli: CommandLine) -> None:
    dearer = replace(decided.options[5], name="near", total_cost=exact_estimate(43000.0, "EUR", "null"))
    wider = replace(decided.options[4], total_cost=Estimate(value=30000, low=1, high=40000, unit="EUR", basis="null"))
    moved = replace(
        decided,
        chosen="near",
        options=(*decided.options[:4], wider, dearer, *decided.options[6:7], option("new", 5)),
        needs_digest="1" * 64,
        assumptions=("[said]",),
    )
    text = cli.printed(show_diff.print_diff, diff_plans(decided, moved))
    assert "because the needs differ (needs.yaml)" in text
    assert "the choice goes from best to near" in text
    lines = squeeze(text)
    assert "total 21,000 EUR 43,000 EUR +104.8 %" in lines
    assert "near 21,500 EUR 43,000 EUR +100.0 %" in lines
    assert "dear 30,000 EUR 30,000 EUR interval only" in lines
    assert "new - 5.00 EUR new" in lines and "odd 99,000 EUR - gone" in lines
    assert "capex 9,000 EUR 0 EUR -100.0 %" in lines
    assert "+ [said]" in lines and "- feasible" in lines and "+ feasible" in lines


def test_a_choice_that_stays_and_plans_that_are_the_same(decided: Plan, cli: CommandLine) -> None:
    assert "nothing differs" in cli.printed(show_diff.print_diff, diff_plans(decided, decided))
    dollars = replace(decided.options[4], total_cost=exact_estimate(30000.0, "USD", "null"))
    many = tuple(f"assumption {number}" for number in range(20))
    changed = replace(decided, options=(*decided.options[:4], dollars, *decided.options[5:]), assumptions=many)
    text = cli.printed(show_diff.print_diff, diff_plans(decided, changed))
    assert "the choice stays" in text and "and 8 more (--json shows all)" in text
    assert "dear 30,000 EUR 30,000 USD" in squeeze(text)


def test_a_fact_that_differs_in_part_is_shown_in_part(decided: Plan, cli: CommandLine) -> None:
    row = TextChange(
        name="fact", before="weights 3; as long as ever; sure", after="weights 4; as long as ever; sure; new"
    )
    found = replace(diff_plans(decided, decided), facts=(row, TextChange(name="less", before="a; b", after="a")))
    lines = squeeze(cli.printed(show_diff.print_diff, found))
    assert {"- weights 3", "+ weights 4; new", "- b", "+ nothing else"} <= set(lines)
    assert not any("as long as ever" in line for line in lines)


def test_what_if_shows_the_change_and_a_refusal(decided: Plan, cli: CommandLine) -> None:
    nothing = replace(decided, chosen=None)
    text = cli.printed(
        show_plan.print_plan, compare_what_if(decided, nothing, ("budget.per_month=1",), "AW-PLAN-03  no option")
    )
    assert "What if budget.per_month=1" in text and "AW-PLAN-03" in text
    assert "without: best, 21,000 EUR over the horizon, 1,750 EUR a month without staff, 9,000 EUR to buy" in text
    assert "with:    nothing is feasible" in text
    assert "the choice goes from best to nothing" in text
    text = cli.printed(show_plan.print_plan, compare_what_if(nothing, decided, ("a=1",), ""))
    assert "without: nothing is feasible" in text and "the choice goes from nothing to best" in text


# --- the verbs


def test_plan_what_if_and_diff_as_verbs(cli: CommandLine) -> None:
    text = read_template("startup").replace("allow: [cloud, hosted-api]", "allow: [hosted-api]")
    Path("needs.yaml").write_text(text.replace("residency: [US], ", ""), encoding="utf-8")
    line = "plan needs.yaml -o b.json --what-if budget.per_month=1 --what-if budget.capex=2"
    assert "What if budget.per_month=1, budget.capex=2" in cli.text(line)
    answer = cli.json("plan needs.yaml --what-if budget.per_month=1,budget.capex=2")
    assert answer["changes"] == ["budget.per_month=1", "budget.capex=2"] and answer["refused"].startswith("AW-PLAN-03")
    assert "budget.per_month" in cli.error("plan needs.yaml --what-if budget.permonth=1", 2)
    cli.run("plan needs.yaml -o a.json", 3)
    assert "because the needs differ" in cli.text("diff a.json b.json")
    assert cli.json("diff a.json b.json")["because"]
    cli.run("diff a.json nowhere.json", 2)


def test_a_plan_file_made_elsewhere_is_shown_by_explain(decided: Plan, cli: CommandLine) -> None:
    write_plan(decided, Path("plan.json"))
    assert "at 4.5 USD/h, inside its interval, near would be chosen" in cli.text("explain plan.json price.a")
