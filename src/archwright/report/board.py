"""The first two pages: recommendation, alternative, decisions, cost by year, models, three risks."""

from collections.abc import Callable, Iterable
from operator import attrgetter

from archwright.contract import number_format as fmt
from archwright.contract.decision import CostDriver, ModelChoice
from archwright.contract.estimate import Estimate
from archwright.contract.plan import Option, Plan
from archwright.report import bill, charts
from archwright.report import decision_chapters as decision
from archwright.report import document as doc
from archwright.report.delivery_chapters import (
    describe_machines,
    find_pilot,
    format_month,
    list_decisions,
    list_steps,
)
from archwright.report.plan_texts import clean_plan, describe_placement
from archwright.report.risk_register import RISK_COLUMNS, Risk, list_risks, name_limit, risk_rows

CHOICE_NAMES = {
    "cheapest": "This plan",
    "best-within-tenth": "Best at up to 10 % more",
    "best-within-budget": "Best within the budget",
}
# A basis of the price of a rented machine: `price.PROVIDER:REGION:MACHINE`; of a bought one.
PRICE_KEY = 3
NODE_PRICE = "price.node."
# The machines of a placement without purchases.
PLACEMENT_MACHINES = {
    "this-machine": "this machine",
    "hosted-api": "none: models are paid by the token",
}
QUALITY_NOTE = "Quality: mean share of points over the axes of the work. Scores that nobody reported are estimates."
SAME_PLAN = ("", "", "", "the same plan as above")
MOST_RISKS = 3
MOST_LIMITS = 2
MOST_DECISIONS = 10
MOST_YEARS = 7
MOST_OPTIONS = 6
Years = tuple[bill.YearCost, ...]
# Columns of the money to approve, each with its amount of a year. The order of `YearCost`, with the
# total last.
YEAR_AMOUNTS: dict[str, Callable[[bill.YearCost], float | None]] = {
    "Purchases": attrgetter("purchases"),
    "Running cost": attrgetter("running"),
    "Staff": attrgetter("staff"),
    "Resale": attrgetter("resale"),
    "Total": attrgetter("total"),
}


def board_pages(plan: Plan, option: Option | None) -> tuple[doc.Chapter, doc.Chapter]:
    """Two chapters of a page each. Without a feasible option they say what to relax."""
    if option is None:
        return _infeasible_decision_page(plan), _nearest_options_page(plan)
    return _decision_page(plan, option), _cost_page(plan, option)


def _infeasible_decision_page(plan: Plan) -> doc.Chapter:
    decisions = doc.build_items("Asked of the board", list_decisions(plan, None))
    blocks = doc.keep_blocks(*decision.infeasibility_blocks(plan), decisions)
    return doc.Chapter("decision", "No option meets the needs", "", blocks)


def _nearest_options_page(plan: Plan) -> doc.Chapter:
    blocks: tuple[doc.Block, ...] = ()
    if plan.options:
        blocks = (decision.options_table(plan, most=MOST_OPTIONS),)
    return doc.Chapter("cost", "The nearest options", "", blocks)


def _decision_page(plan: Plan, option: Option) -> doc.Chapter:
    summary = {"Part": 1, "Choice": 5}
    decisions = list_decisions(plan, option)[:MOST_DECISIONS]
    blocks = doc.keep_blocks(
        doc.Tiles(tuple(_list_tiles(plan, option))),
        doc.build_table("What is recommended", summary, _list_summary_rows(plan, option)),
        _describe_alternative(plan, option),
        year_table(plan, option),
        doc.build_items("Asked of the board", decisions),
    )
    return doc.Chapter("decision", "Recommendation", "", blocks)


def _cost_page(plan: Plan, option: Option) -> doc.Chapter:
    years = bill.sum_years(plan, option)
    blocks = doc.keep_blocks(
        charts.draw_years(plan, years),
        _choice_table(plan, option),
        doc.build_items("Limits that make the plan dearer", _list_binding_limits(plan)),
        _risk_table(plan, option),
        doc.build_items("Next steps", list_steps(plan, option)),
    )
    return doc.Chapter("cost", "Cost, models and risks", "", blocks)


def _risk_table(plan: Plan, option: Option) -> doc.TableBlock | None:
    risks = _choose_risks(plan, option)
    if not risks:
        return None
    return doc.build_table("Three risks", RISK_COLUMNS, risk_rows(risks))


def list_board_chapters(plan: Plan) -> tuple[doc.Chapter, ...]:
    """The two pages for the board; without their limit of space, all options follow."""
    shown = clean_plan(plan)
    option = shown.chosen_option
    first, second = board_pages(shown, option)
    first = first._replace(lead=decision.describe_decision(shown, option))
    if option is None:
        return first, second
    table = decision.options_table(shown, most=MOST_OPTIONS)
    lead = ""
    hidden_count = len(shown.options) - MOST_OPTIONS
    if hidden_count > 0:
        hidden = fmt.format_count(hidden_count, "further option")
        lead = f"{hidden}: archwright explain plan.json options"
    return first, second, doc.Chapter("options", "Options", lead, (table,))


def _list_tiles(plan: Plan, option: Option) -> Iterable[doc.Tile]:
    yield from _money_tile(plan, f"Total over {plan.horizon_label}, with staff", option.total_cost)
    if option.cost_without_staff is None:
        yield from _staffless_tile(plan, option)
    yield from _money_tile(plan, "Total without staff", option.cost_without_staff)
    yield from _money_tile(plan, "Purchases over the horizon", option.capex)
    yield from _money_tile(plan, "Per month, without staff", option.cost_per_month)


def _money_tile(plan: Plan, label: str, amount: Estimate | None) -> Iterable[doc.Tile]:
    """A tile with the amount and its interval; none without an amount."""
    if amount is None:
        return
    note = "exact"
    interval = fmt.format_money_interval(amount)
    if interval:
        note = f"{fmt.format_share(amount.level)} band {interval}"
    yield doc.Tile(label, fmt.format_money(amount.value, plan.currency), note)


def _staffless_tile(plan: Plan, option: Option) -> Iterable[doc.Tile]:
    """The total without staff of a plan file that does not state it."""
    total = bill.total_without_staff(plan, option)
    if total is not None:
        amount = fmt.format_money(total, plan.currency)
        yield doc.Tile("Total without staff", amount, "computed from the lines")


def _list_summary_rows(plan: Plan, option: Option) -> Iterable[tuple[str, str]]:
    yield "What", decision.describe_choice(plan, option)
    yield "Where", describe_placement(option)
    yield "Models", _describe_models(option) or "no language model"

    machines = fmt.format_list(describe_machines(option.purchases), most=5)
    yield "Machines", machines or PLACEMENT_MACHINES.get(option.placement, "none")

    pilot = find_pilot(plan, option)
    if pilot is not None:
        start = format_month(plan, pilot.ends.value)
        latest_start = format_month(plan, pilot.ends.high)
        signature = format_month(plan, 0)
        yield "In production", f"{start}, {latest_start} at the latest, if signed in {signature}"

    business_case = decision.describe_business_case(plan)
    if business_case and "does not pay" not in business_case:
        yield "Return", business_case


def _describe_models(option: Option) -> str:
    """`model-a for chat and search`; "" without a language model."""
    workloads_by_model: dict[str, list[str]] = {}
    # A plan file keeps no order of workloads, so the view has its own.
    models = sorted(option.models.items())
    for workload, model in models:
        workloads_by_model.setdefault(model, []).append(workload)
    texts: list[str] = []
    for model, workloads in workloads_by_model.items():
        texts.append(f"{model} for {fmt.format_list(workloads, most=3)}")
    return fmt.format_list(texts, most=5)


def _describe_alternative(plan: Plan, option: Option) -> doc.Callout:
    """The cheapest other option, with the ties and the fact that changes the choice.

    It says why cheaper options were passed over.
    """
    alternatives = [feasible for feasible in decision.rank_feasible_options(plan) if feasible.name != option.name]
    if not alternatives or option.total_cost is None:
        return doc.Callout("Alternative:", "no other option meets the needs.", "warn")

    first = alternatives[0]
    texts = [_compare(plan, option, first), *_describe_cheaper(option, alternatives)]

    compared = {first.name}
    ties = {rival.option for rival in plan.decision.rivals if rival.tie}
    for alternative in alternatives[1:]:
        if alternative.name in ties:
            texts.append(_compare(plan, option, alternative))
            compared.add(alternative.name)

    by_name = {alternative.name: alternative for alternative in alternatives}
    for driver in _sort_by_nearness(plan.decision.drivers):
        next_choice = by_name.get(driver.flips_to or "")
        if next_choice is None:
            continue
        if next_choice.name not in compared:
            texts.append(_compare(plan, option, next_choice))
        texts.append(f"{next_choice.name} would be the choice {_describe_condition(driver)}.")
        break
    return doc.Callout("Alternative:", " ".join(texts), "warn")


def _describe_cheaper(option: Option, alternatives: list[Option]) -> Iterable[str]:
    """Why the cheapest alternative was passed over, and how many more cost less than the option."""
    cheaper_count = 0
    for alternative in alternatives:
        if decision.find_extra_cost(option, alternative) < 0:
            cheaper_count += 1
    if cheaper_count:
        yield decision.explain_refusal(option, alternatives[0])
    if cheaper_count == 2:
        yield "1 other option costs less too, see Options side by side."
    elif cheaper_count > 2:
        yield f"{cheaper_count - 1} other options cost less too, see Options side by side."


def _compare(plan: Plan, option: Option, alternative: Option) -> str:
    """`cloud-x costs EUR 4.2 k more and is cheaper in 41 % of the samples: a tie.`"""
    extra_cost = decision.find_extra_cost(option, alternative)
    direction = "more" if extra_cost >= 0 else "less"
    amount = fmt.format_money(abs(extra_cost), plan.currency)
    text = f"{alternative.name} costs {amount} {direction}"

    for rival in plan.decision.rivals:
        if rival.option != alternative.name:
            continue
        if rival.equal:
            return f"{alternative.name} costs the same in every sample."
        text += f" and is cheaper in {fmt.format_share(rival.cheaper)} of the samples"
        if rival.tie:
            text += f": {rival.closeness}"
        break
    return f"{text}."


def _describe_condition(driver: CostDriver) -> str:
    """`if the purchase price of one machine were above 310,000 USD; the plan takes 280,000 USD`."""
    estimate = driver.estimate
    switch_point = driver.flips_at or 0.0
    side = "above" if switch_point > estimate.value else "below"
    if driver.basis.startswith("load."):
        load = driver.basis.removeprefix("load.")
        share = fmt.format_share(switch_point / estimate.value)
        return f"if the load of {load} were {side} {share} of the planned load"

    fact = _name_fact(driver)
    limit = fmt.format_quantity(switch_point, estimate.unit)
    planned = fmt.format_quantity(estimate.value, estimate.unit)
    return f"if the {fact} were {side} {limit}; the plan takes {planned}"


def _name_fact(driver: CostDriver) -> str:
    """`purchase price of one machine (node-a)`: the fact, and to what it belongs."""
    title, _, owner = driver.name.partition(": ")
    title = title.partition(", ")[0]
    kind, *parts = driver.basis.split(".")
    offer = parts[0].split(":")
    if kind == "price" and len(offer) == PRICE_KEY:
        owner = f"{offer[0]}, {offer[1]}"
    elif kind == "machines" and len(parts) > 1:
        owner = parts[0]
    elif driver.basis.startswith(NODE_PRICE):
        owner = driver.basis.removeprefix(NODE_PRICE)
    fact = title[0].lower() + title[1:]
    return f"{fact} ({owner})" if owner else fact


def _sort_by_nearness(drivers: Iterable[CostDriver]) -> list[CostDriver]:
    """Facts that change the choice, those inside their band first; a share stays below 1."""
    possible: list[CostDriver] = []
    for driver in drivers:
        if driver.flips_at is None:
            continue
        if driver.estimate.unit != "share" or driver.flips_at <= 1:
            possible.append(driver)
    return sorted(possible, key=lambda driver: not driver.inside)


def year_table(plan: Plan, option: Option) -> doc.TableBlock | None:
    """Money to approve by year; later years than MOST_YEARS are one row."""
    years = bill.sum_years(plan, option)
    if not years:
        return None

    columns = list(_list_filled_columns(years))
    body: list[tuple[doc.Cell, ...]] = []
    for label, year in _label_years(plan, years):
        body.append(_year_row(label, year, columns))
    body.append(_year_row("Total", _add_years(years), columns, tone="strong"))

    shares = {"Year": 2.2} | dict.fromkeys(columns, 1.0)
    caption = f"Money to approve, {plan.currency}"
    return doc.build_table(caption, shares, body, numeric=range(1, len(shares)))


def _list_filled_columns(years: Years) -> Iterable[str]:
    for title, amount in YEAR_AMOUNTS.items():
        if any(map(amount, years)):
            yield title


def _label_years(plan: Plan, years: Years) -> Iterable[tuple[str, bill.YearCost]]:
    shown_count = len(years)
    if shown_count > MOST_YEARS:
        shown_count = MOST_YEARS - 1
    for year in years[:shown_count]:
        start = format_month(plan, 12 * (year.year - 1))
        yield f"Year {year.year}, from {start}", year

    later_years = years[shown_count:]
    if later_years:
        yield f"Years {later_years[0].year} to {later_years[-1].year}", _add_years(later_years)


def _year_row(label: str, year: bill.YearCost, columns: Iterable[str], *, tone: doc.Tone = "") -> tuple[doc.Cell, ...]:
    cells = [doc.Cell(label, tone=tone)]
    for title in columns:
        amount = YEAR_AMOUNTS[title](year) or 0.0
        cells.append(doc.build_amount_cell(amount, tone))
    return tuple(cells)


def _add_years(years: Years) -> bill.YearCost:
    sums: list[float] = []
    for amount in YEAR_AMOUNTS.values():
        amounts = map(amount, years)
        sums.append(sum(filter(None, amounts)))
    *parts, total = sums
    return bill.YearCost(0, total, *parts)


def _choice_table(plan: Plan, option: Option) -> doc.TableBlock | None:
    """Three choices of models: cost, quality and what each gives up; the plan's is marked."""
    rows: list[Iterable[doc.Cell | str]] = []
    marked: int | None = None
    for choice, is_repeated in plan.decision.list_choices():
        is_own = choice.option == option.name and choice.models.items() <= option.models.items()
        if is_own and marked is None:
            marked = len(rows)
        if is_repeated:
            rows.append([CHOICE_NAMES[choice.kind], *SAME_PLAN])
        else:
            rows.append(_choice_row(choice, plan.chosen))
    if not rows:
        return None

    columns = {"Choice": 1.4, f"Total, {plan.currency}": 1, "Quality": 0.8}
    columns |= {"Models": 2.2, "Gives up": 3.4}
    note = QUALITY_NOTE
    if marked is not None:
        note += " The plan has the marked choice."
    caption = "Three choices of models"
    return doc.build_table(caption, columns, rows, numeric=(1, 2), marked=marked, note=note)


def _choice_row(choice: ModelChoice, chosen: str | None) -> Iterable[doc.Cell | str]:
    yield CHOICE_NAMES[choice.kind]
    yield doc.build_amount_cell(choice.total_cost.value)
    scores = choice.quality.values()
    if scores:
        yield fmt.format_share(sum(scores) / len(scores))
    else:
        yield doc.Cell("unknown", tone="quiet")
    option = "" if choice.option == chosen else choice.option
    workloads = sorted(choice.models)
    models = dict.fromkeys(map(choice.models.__getitem__, workloads))
    listed = fmt.format_list(models, most=3)
    yield doc.build_cell(listed, option)
    yield "; ".join(choice.gives_up[:2]) or "nothing against the others"


def _choose_risks(plan: Plan, option: Option) -> list[Risk]:
    """The largest risks, with both kinds if there are both: costs and service levels."""
    risks = list_risks(plan, option)
    levels = [risk for risk in risks if risk.impact is None]
    costs = [risk for risk in risks if risk.impact is not None]
    chosen = [*costs[: MOST_RISKS - 1], *levels[:1]]
    chosen += [risk for risk in risks if risk not in chosen]
    return sorted(chosen[:MOST_RISKS], key=lambda risk: -risk.weight)


def _list_binding_limits(plan: Plan) -> Iterable[doc.Item]:
    for limit in plan.decision.binding[:MOST_LIMITS]:
        present = _format_limit(limit.constraint, limit.limit)
        relaxed = _format_limit(limit.constraint, limit.relaxed_to)
        saving = fmt.format_money(limit.saves, plan.currency)
        text = f"{relaxed} instead of {present} saves {saving} over the horizon ({limit.option})."
        yield doc.Item(name_limit(limit.constraint), text)


def _format_limit(constraint: str, end: float | str) -> str:
    is_duration = constraint.endswith("_s")
    if isinstance(end, str):
        is_number = end[-1:].isdigit()
        return f"{end} s" if is_duration and is_number else end
    if constraint.endswith(".availability") or ".quality." in constraint:
        return fmt.format_quantity(end, "share")
    return fmt.format_quantity(end, "s") if is_duration else fmt.format_number(end)
