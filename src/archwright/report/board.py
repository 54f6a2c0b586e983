"""The first two pages: recommendation, alternative, what is asked, cost by year, model choices, three risks."""

from collections.abc import Iterable

from archwright.contract import number_format as fmt
from archwright.contract.decision import CostDriver, ModelChoice
from archwright.contract.plan import Option, Plan
from archwright.report import bill, charts
from archwright.report import decision_chapters as decision
from archwright.report import document as doc
from archwright.report.delivery_chapters import (
    describe_machines,
    find_schedule,
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
PRICE_KEY, NODE_PRICE = 3, "price.node."
SAME_PLAN = ("", "", "", "the same plan as above")
MOST_RISKS, MOST_LIMITS, MOST_DECISIONS, MOST_YEARS, MOST_OPTIONS = 3, 2, 10, 7, 6


def board_pages(plan: Plan, option: Option | None) -> tuple[doc.Chapter, doc.Chapter]:
    """Two chapters of a page each. Without a feasible option they say what to relax."""
    if option is None:
        first = tuple(decision.infeasibility_blocks(plan))
        asked = doc.build_items("Asked of the board", list_decisions(plan, None))
        options = decision.options_table(plan, most=MOST_OPTIONS) if plan.options else None
        return (
            doc.Chapter("decision", "No option meets the needs", "", doc.keep_blocks(*first, asked)),
            doc.Chapter("cost", "The nearest options", "", doc.keep_blocks(options)),
        )
    risks = doc.build_table("Three risks", RISK_COLUMNS, risk_rows(_choose_risks(plan, option)))
    return (
        doc.Chapter(
            "decision",
            "Recommendation",
            "",
            doc.keep_blocks(
                doc.Tiles(tuple(_tiles(plan, option))),
                doc.build_table("What is recommended", {"Part": 1, "Choice": 5}, _summary_rows(plan, option)),
                _alternative(plan, option),
                year_table(plan, option),
                doc.build_items("Asked of the board", list_decisions(plan, option)[:MOST_DECISIONS]),
            ),
        ),
        doc.Chapter(
            "cost",
            "Cost, models and risks",
            "",
            doc.keep_blocks(
                charts.draw_years(plan, bill.sum_years(plan, option)),
                _choice_table(plan, option),
                doc.build_items("Limits that make the plan dearer", _binding_limits(plan)),
                risks if risks.rows else None,
                doc.build_items("Next steps", list_steps(plan, option)),
            ),
        ),
    )


def list_board_chapters(plan: Plan) -> tuple[doc.Chapter, ...]:
    """The two pages for the board; without their limit of space, all options follow."""
    shown = clean_plan(plan)
    option = shown.chosen_option
    first, second = board_pages(shown, option)
    first = first._replace(lead=decision.describe_decision(shown, option))
    if option is None:
        return first, second
    table = decision.options_table(shown, most=MOST_OPTIONS)
    hidden = len(shown.options) - MOST_OPTIONS
    lead = f"{fmt.format_count(hidden, 'further option')}: archwright explain plan.json options" if hidden > 0 else ""
    return first, second, doc.Chapter("options", "Options", lead, (table,))


def _tiles(plan: Plan, option: Option) -> Iterable[doc.Tile]:
    currency = plan.currency
    bare = option.cost_without_staff
    amounts = [
        (f"Total over {plan.horizon_label}, with staff", option.total_cost),
        ("Total without staff", bare),
        ("Purchases over the horizon", option.capex),
        ("Per month, without staff", option.cost_per_month),
    ]
    for label, amount in amounts:
        if amount is not None:
            band = fmt.format_money_interval(amount)
            note = f"{fmt.format_share(amount.level)} band {band}" if band else "exact"
            yield doc.Tile(label, fmt.format_money(amount.value, currency), note)
        elif label.startswith("Total without") and (value := bill.total_without_staff(plan, option)) is not None:
            yield doc.Tile(label, fmt.format_money(value, currency), "computed from the lines")


def _summary_rows(plan: Plan, option: Option) -> Iterable[tuple[doc.Cell | str, doc.Cell | str]]:
    yield "What", decision.describe_choice(plan, option)
    yield "Where", describe_placement(option)
    models: dict[str, list[str]] = {}
    for workload, model in option.models.items():
        models.setdefault(model, []).append(workload)
    served = (f"{model} for {fmt.format_list(users, most=3)}" for model, users in models.items())
    yield "Models", fmt.format_list(served, most=5) or "no language model"
    machines = {"this-machine": "this machine", "hosted-api": "none: models are paid by the token"}
    named = fmt.format_list(describe_machines(option.purchases), most=5)
    yield "Machines", named or machines.get(option.placement, "none")
    schedule = find_schedule(plan, option)
    pilot = next((phase for phase in schedule.phases if phase.name == "pilot"), None) if schedule else None
    if pilot is not None:
        late = format_month(plan, pilot.ends.high)
        yield (
            "In production",
            f"{format_month(plan, pilot.ends.value)}, {late} at the latest, if signed in {format_month(plan, 0)}",
        )
    if (pays := decision.describe_business_case(plan)) and "does not pay" not in pays:
        yield "Return", pays


def _alternative(plan: Plan, option: Option) -> doc.Callout:
    """The cheapest other option, why cheaper ones were passed over, ties, and the fact that changes the choice."""
    ranked = [one for one in decision.rank_feasible_options(plan) if one.name != option.name]
    if not ranked or option.total_cost is None:
        return doc.Callout("Alternative:", "no other option meets the needs.", "warn")
    first, texts = ranked[0], [_compare(plan, option, ranked[0])]
    cheaper = [one for one in ranked if decision.find_extra_cost(option, one) < 0]
    if cheaper:
        texts.append(decision.explain_refusal(option, first))
    if more := cheaper[1:]:
        cost = "costs" if len(more) == 1 else "cost"
        texts.append(f"{fmt.format_count(len(more), 'other option')} {cost} less too, see Options side by side.")
    ties = {rival.option for rival in plan.decision.rivals if rival.tie}
    texts += [_compare(plan, option, one) for one in ranked[1:] if one.name in ties]
    drivers, names = _by_nearness(plan.decision.drivers), {one.name: one for one in ranked}
    driver = next((one for one in drivers if one.flips_to in names), None)
    if driver is not None and driver.flips_to is not None:
        if driver.flips_to != first.name and driver.flips_to not in ties:
            texts.append(_compare(plan, option, names[driver.flips_to]))
        texts.append(f"{driver.flips_to} would be the choice {_describe_condition(driver)}.")
    return doc.Callout("Alternative:", " ".join(texts), "warn")


def _compare(plan: Plan, option: Option, other: Option) -> str:
    """`cloud-x costs EUR 4.2 k more and is cheaper in 41 % of the samples: a tie.`"""
    more = decision.find_extra_cost(option, other)
    text = f"{other.name} costs {fmt.format_money(abs(more), plan.currency)} {'more' if more >= 0 else 'less'}"
    rival = next((one for one in plan.decision.rivals if one.option == other.name), None)
    if rival is not None and rival.equal:
        return f"{other.name} costs the same in every sample."
    if rival is not None:
        text += f" and is cheaper in {fmt.format_share(rival.cheaper)} of the samples"
        text += f": {rival.closeness}" if rival.tie else ""
    return f"{text}."


def _describe_condition(driver: CostDriver) -> str:
    """`if the purchase price of one machine (node-a) were above 310,000 USD; the plan takes 280,000 USD`."""
    estimate, at = driver.estimate, driver.flips_at or 0.0
    side = "above" if at > estimate.value else "below"
    if driver.basis.startswith("load."):
        load = driver.basis.removeprefix("load.")
        return f"if the load of {load} were {side} {fmt.format_share(at / estimate.value)} of the planned load"
    name, _, parts = driver.name.partition(": ")
    name, kind, (start, *rest) = name.partition(", ")[0], driver.basis.partition(".")[0], driver.basis.split(".")[1:]
    place = start.split(":")
    if kind == "price" and len(place) == PRICE_KEY:
        parts = f"{place[0]}, {place[1]}"
    elif kind == "machines" and rest:
        parts = start
    elif driver.basis.startswith(NODE_PRICE):
        parts = driver.basis.removeprefix(NODE_PRICE)
    what = f"{name[0].lower()}{name[1:]}" + (f" ({parts})" if parts else "")
    limit, taken = (fmt.format_quantity(value, estimate.unit) for value in (at, estimate.value))
    return f"if the {what} were {side} {limit}; the plan takes {taken}"


def _by_nearness(drivers: Iterable[CostDriver]) -> list[CostDriver]:
    """Facts that change the choice, those inside their band first; a share stays below 1."""
    found = (d for d in drivers if d.flips_at is not None and (d.estimate.unit != "share" or (d.flips_at or 0.0) <= 1))
    return sorted(found, key=lambda driver: not driver.inside)


def year_table(plan: Plan, option: Option) -> doc.TableBlock | None:
    """Money to approve by year; later years than MOST_YEARS are one row."""
    years = bill.sum_years(plan, option)
    if not years:
        return None
    shown, rest = years[: MOST_YEARS - (len(years) > MOST_YEARS)], years[MOST_YEARS - (len(years) > MOST_YEARS) :]
    rows = [(_year_label(plan, one.year), one) for one in shown]
    rows += [(f"Years {rest[0].year} to {rest[-1].year}", _add_years(rest))] if rest else []
    rows.append(("Total", _add_years(years)))
    columns = {
        "Purchases": "purchases",
        "Running cost": "running",
        "Staff": "staff",
        "Resale": "resale",
        "Total": "total",
    }
    columns = {head: name for head, name in columns.items() if any(getattr(one, name) for one in years)}
    body = []
    for label, one in rows:
        tone: doc.Tone = "strong" if label == "Total" else ""
        amounts = (fmt.format_money(getattr(one, name) or 0.0) for name in columns.values())
        body.append((doc.Cell(label, tone=tone), *(doc.Cell(amount, tone=tone) for amount in amounts)))
    shares = {"Year": 2.2} | dict.fromkeys(columns, 1.0)
    return doc.build_table(f"Money to approve, {plan.currency}", shares, body, numeric=range(1, len(shares)))


def _year_label(plan: Plan, year: int) -> str:
    return f"Year {year}, from {format_month(plan, 12 * (year - 1))}"


def _add_years(years: Iterable[bill.YearCost]) -> bill.YearCost:
    found = tuple(years)
    sums = (sum(getattr(one, name) or 0.0 for one in found) for name in bill.YearCost._fields[1:])
    return bill.YearCost(0, *sums)


def _choice_table(plan: Plan, option: Option) -> doc.TableBlock | None:
    """The three choices of models: cost, quality and what each gives up; that of the plan is marked."""
    listed = plan.decision.list_choices()
    if not listed:
        return None
    columns = {"Choice": 1.4, f"Total, {plan.currency}": 1, "Quality": 0.8, "Models": 2.2, "Gives up": 3.4}
    own = (
        n
        for n, (one, _) in enumerate(listed)
        if one.option == option.name and one.models.items() <= option.models.items()
    )
    rows = ([CHOICE_NAMES[one.kind], *SAME_PLAN] if same else _choice_row(one, plan.chosen) for one, same in listed)
    marked = next(own, None)
    note = "Quality: mean share of points over the axes of the work. Scores that nobody reported are estimates."
    note += " The plan has the marked choice." if marked is not None else ""
    return doc.build_table("Three choices of models", columns, rows, numeric=(1, 2), marked=marked, note=note)


def _choice_row(choice: ModelChoice, chosen: str | None) -> Iterable[doc.Cell | str]:
    yield CHOICE_NAMES[choice.kind]
    yield fmt.format_money(choice.total_cost.value)
    scores = list(choice.quality.values())
    yield fmt.format_share(sum(scores) / len(scores)) if scores else doc.Cell("unknown", tone="quiet")
    where = "" if choice.option == chosen else choice.option
    yield doc.build_cell(fmt.format_list(dict.fromkeys(choice.models.values()), most=3), where)
    yield "; ".join(choice.gives_up[:2]) or "nothing against the others"


def _choose_risks(plan: Plan, option: Option) -> list[Risk]:
    """The largest risks, with both kinds if there are both: costs and service levels."""
    found = list_risks(plan, option)
    levels = [risk for risk in found if risk.impact is None]
    costs = [risk for risk in found if risk.impact is not None]
    chosen = [*costs[: MOST_RISKS - 1], *levels[:1]]
    chosen += [risk for risk in found if risk not in chosen]
    return sorted(chosen[:MOST_RISKS], key=lambda risk: -risk.weight)


def _binding_limits(plan: Plan) -> Iterable[doc.Item]:
    for limit in plan.decision.binding[:MOST_LIMITS]:
        now, then = (_format_limit(limit.constraint, end) for end in (limit.limit, limit.relaxed_to))
        text = f"{then} instead of {now} saves {fmt.format_money(limit.saves, plan.currency)} over the horizon"
        yield doc.Item(name_limit(limit.constraint), f"{text} ({limit.option}).")


def _format_limit(constraint: str, end: float | str) -> str:
    if isinstance(end, str):
        return f"{end} s" if constraint.endswith("_s") and end[-1:].isdigit() else end
    if constraint.endswith(".availability") or ".quality." in constraint:
        return fmt.format_quantity(end, "share")
    return fmt.format_quantity(end, "s") if constraint.endswith("_s") else fmt.format_number(end)
