"""Every name of a plan can be asked for, and the answer says value, band, formula and facts."""

from __future__ import annotations

import pytest

from archwright.contract.decision import CostDriver, Section, SectionLine
from archwright.contract.estimate import Estimate, exact_estimate
from archwright.contract.evidence import Basis, Control
from archwright.contract.plan import ConstraintViolation, Plan, Purchase, WorkloadPlan
from archwright.contract.record import replace
from archwright.errors import UsageError
from archwright.plan.explain.explanation import explain_plan
from archwright.plan.explain.formatting import describe_switch_point, format_miss


def test_an_option_shows_what_it_misses_or_its_pool_and_price(startup: Plan) -> None:
    text = explain_plan(startup, next(option.name for option in startup.options if not option.feasible))
    assert "not feasible" in text and "misses" in text
    option = next(option for option in startup.options if option.pools)
    text = explain_plan(startup, option.name)
    for part in (f"pool {option.pools[0].name}", "USD/h", "total over 24 months"):
        assert part in text


def test_an_option_shows_how_its_machines_are_had_and_what_they_draw(desk: Plan) -> None:
    figures = {
        "power_kw": exact_estimate(12, "kW"),
        "energy_kwh_per_month": exact_estimate(900, "kWh/month"),
        "carbon_kg_per_month": exact_estimate(80, "kg/month"),
        "rack_units": 16.0,
    }
    bought = Purchase(pool="assistant", machine="m", kind="bought", machines=2.5, peak=3)
    option = replace(desk.options[0], purchases=(bought,), **figures)
    lines = explain_plan(replace(desk, options=(option,)), option.name).splitlines()
    drawn = ["peak power at the plug: 12 kW", "energy: 900 kWh/month", "carbon: 80 kg/month", "rack units: 16"]
    assert {f"  {line}" for line in ("assistant: 2.5 x m bought, peak 3", *drawn)} <= set(lines)
    bare = replace(option, purchases=(), **dict.fromkeys(figures))
    without = explain_plan(replace(desk, options=(bare,)), bare.name)
    assert "rack units" not in without and "carbon" not in without and "peak power" not in without


def test_a_prediction_shows_its_basis_and_query(desk: Plan) -> None:
    text = explain_plan(desk, "assistant.tpot_s.p95")
    assert "at 90 %" in text and "basis" in text and "measured by: p95 of tpot_s over 45 s peak" in text
    assert explain_plan(desk, "disk_bytes").splitlines()[-1].endswith("over 24 h")


def test_a_workload_shows_its_cost_and_what_options_miss(startup: Plan) -> None:
    assert "tone: " in explain_plan(startup, "tone").split("\n", 1)[1] and "/month" in explain_plan(startup, "tone")
    name, missed = next(
        (work.name, miss.constraint)
        for option in startup.options
        for miss in option.misses
        for work in startup.workloads
        if miss.constraint.startswith(f"{work.name}.")
    )
    assert f"misses {missed}" in explain_plan(startup, name)


def test_a_workload_that_is_not_sized_says_so(desk: Plan) -> None:
    missing = WorkloadPlan(name="later", model=None, pools=())
    said = "workload later (finetune): its cost is not included yet"
    text = explain_plan(replace(desk, workloads=(*desk.workloads, missing), not_sized=(said,)), "later")
    assert text.splitlines() == ["later: not sized yet", f"  {said}"]


def test_a_workload_shows_only_its_own(desk: Plan) -> None:
    other = replace(desk.loads[0], workload="other", requests_per_second=7654.0)
    promise = replace(desk.predictions[0], id="other.x", workload="other")
    plan = replace(desk, loads=(*desk.loads, other), predictions=(*desk.predictions, promise))
    text = explain_plan(plan, "assistant")
    assert "7654" not in text.replace(",", "") and "other.x" not in text


def test_controls_and_bases_have_names_too(desk: Plan) -> None:
    bare = Control(id="x.1", demanded_by="x 1", demand="d", feature="f", evidence="", status="later")
    assert "none yet" in explain_plan(replace(desk, controls=(bare,)), "x.1")
    plain = Basis(id="plain", kind="assumed", stratum="s", definition="d")
    assert explain_plan(replace(desk, bases=(plain,)), "plain").splitlines() == ["basis plain: assumed, s", "  d"]


def test_a_cost_line_shows_the_facts_it_rests_on(desk: Plan) -> None:
    line = desk.options[0].cost_lines[0]
    text = explain_plan(desk, line.name)
    assert text.startswith(f"{line.name}, in this-machine: ") and "energy" in text and "mean over the horizon" in text
    for driver in line.drivers:
        assert f"basis {driver}: " in text
    once = replace(line, once=True, recurring_budget=False, drivers=("unknown",))
    plan = replace(desk, options=(replace(desk.options[0], cost_lines=(once,)),))
    assert explain_plan(plan, line.name).endswith("once; energy, outside the monthly budget")
    assert f"{line.name}: " in explain_plan(plan, "this-machine") and ", once" in explain_plan(plan, "this-machine")


def flipping(to: str | None, at: float | None, *, inside: bool = True) -> CostDriver:
    price = Estimate(value=4, low=3, high=5, unit="USD/h", basis="price.x")
    return CostDriver(
        basis="price.x", name="price of x", estimate=price, share=0.25, flips_to=to, flips_at=at, inside=inside
    )


@pytest.mark.parametrize(
    ("driver", "said_of_it"),
    [
        (flipping("y", 4.5), "at 4.5 USD/h, inside its interval, y would be chosen"),
        (flipping("y", 9.0, inside=False), "at 9 USD/h, outside its interval, y would be chosen"),
        (flipping(None, 4.5), "at 4.5 USD/h, inside its interval, nothing would be feasible"),
        (flipping(None, None, inside=False), "no value within a factor of ten changes the choice"),
    ],
)
def test_a_driver_shows_what_it_would_change(desk: Plan, driver: CostDriver, said_of_it: str) -> None:
    plan = replace(desk, decision=replace(desk.decision, drivers=(driver,)))
    text = explain_plan(plan, "price.x")
    assert text.splitlines()[0] == "driver price.x: price of x, 4 USD/h (3 to 5)"
    assert "25 % of the variance" in text and said_of_it in text
    assert said_of_it in describe_switch_point(driver)


def test_a_section_shows_each_decision_with_its_reason(desk: Plan) -> None:
    whole = SectionLine(
        topic="fabric",
        choice="400G",
        why="collectives",
        demanded_by=("law 1", "law 2"),
        proof="bench",
        alternative="InfiniBand",
        why_not="dearer",
        estimate=exact_estimate(400, "Gbit/s"),
        source="measured",
    )
    bare = SectionLine(topic="front", choice="10G", why="traffic")
    section = Section(id="network", title="Network", summary="one fabric", lines=(whole, bare))
    plan = replace(desk, sections=(section,))
    assert explain_plan(plan, "network").splitlines() == [
        "Network: one fabric",
        "  fabric: 400G, 400 Gbit/s",
        "    why: collectives",
        "    demanded by: law 1, law 2",
        "    proved by: bench",
        "    alternative: InfiniBand: dearer",
        "    source: measured",
        "  front: 10G",
        "    why: traffic",
    ]


def test_a_workload_shows_every_pool_or_who_serves_its_model(desk: Plan) -> None:
    bought, here = (replace(desk.workloads[0], pools=pools) for pools in ((), ("a-fr", "a-us")))
    hosted = explain_plan(replace(desk, workloads=(bought,)), bought.name)
    assert "served by this-machine without own machines" in hosted
    text = explain_plan(replace(desk, workloads=(here,)), here.name)
    assert text.startswith(f"{here.name}: {here.model} in a-fr, a-us\n")


def test_work_without_an_endpoint_says_where_it_runs_and_what_it_costs(desk: Plan) -> None:
    """Sized, priced and counted, with a model or without: it is not called unsized."""
    line = replace(desk.options[0].cost_lines[0], name="support of m for nightly, house in FR")
    runs = tuple(
        Purchase(pool=name, machine="m", kind="bought", machines=2, peak=3, shared_with=(other,))
        for name, other in (("nightly", "house"), ("house", "nightly"))
    )
    workloads = tuple(
        WorkloadPlan(name=name, model=model, pools=()) for name, model in (("nightly", None), ("house", "x"))
    )
    option = replace(desk.options[0], purchases=runs, cost_lines=(line,))
    said = "hours of a run of nightly, house: sized, not predicted"
    plan = replace(desk, options=(option,), workloads=workloads, not_sized=(said,))
    head, run, cost, unsized = explain_plan(plan, "nightly").splitlines()
    assert head == "nightly: no model, as batch runs on m"
    assert run == "  nightly: 2 x m bought, peak 3 (the same machines as house)"
    assert cost.startswith(f"  {line.name}: ") and unsized == f"  {said}"
    assert explain_plan(plan, "house").startswith("house: x, as batch runs on m\n")


@pytest.mark.parametrize(
    ("word", "meaning"),
    [
        ("energy", "electricity at the plug"),
        ("staff", "staff beyond the team"),
        ("residual", "none in this-machine"),
        ("capex", "All purchases over the horizon"),
        ("break-even", "first month"),
        ("Break even", "first month"),
        ("pareto", "total_cost"),
        ("total", "this-machine: "),
        ("binding limits", "make the plan dearer"),
        ("TTFT", "Time to first token"),
        ("ttft_s", "assistant.ttft_s.p50"),
        ("ttft_s", "assistant.ttft_s.p95"),
        ("assistant", "0.3 requests/s at the peak"),
        ("assistant", "pool assistant"),
        ("needs.residency", "built-in"),
        ("this-machine.cost", "formula"),
        ("this-machine", "2 cores"),
    ],
)
def test_names_and_the_words_that_head_tables_can_be_explained(desk: Plan, word: str, meaning: str) -> None:
    assert meaning in explain_plan(desk, word)


def test_a_category_shows_its_lines(desk: Plan) -> None:
    line = next(line for line in desk.options[0].cost_lines if line.category == "energy")
    assert f"  {line.name}: " in explain_plan(desk, "energy")
    assert "none" not in explain_plan(replace(desk, chosen=None), "staff").partition("\n")[0]


@pytest.mark.parametrize(("name", "nearest"), [("asistant", "assistant"), ("@@@@@@@@@@", "")])
def test_an_unknown_name_gets_the_nearest(desk: Plan, name: str, nearest: str) -> None:
    with pytest.raises(UsageError) as caught:
        explain_plan(desk, name)
    assert caught.value.code == "AW-USE-21"
    assert nearest in caught.value.nearest if nearest else caught.value.nearest == ()
    assert nearest or "without a name" in caught.value.hint


def test_a_miss_without_a_value_or_a_limit_reads_well() -> None:
    assert format_miss(ConstraintViolation(constraint="x.model", value=None, limit="y")) == "x.model: none, limit y"
    assert format_miss(ConstraintViolation(constraint="x", value=0.25, limit=None)) == "x: 0.25"


def test_a_basis_that_numbers_share_is_printed_once(startup: Plan) -> None:
    lines = explain_plan(startup, "ttft_s").splitlines()
    heads = [line.strip() for line in lines if line.strip().startswith("basis support-chat.serving.latency: ")]
    assert len(heads) == 3 and [head.endswith("see above") for head in heads] == [False, True, True]
    assert sum("formula: " in line for line in lines) == 1
    assert sum("measured by: " in line for line in lines) == 3
