"""Chapters for decision makers: the decision, the options, the risk."""

from collections.abc import Iterable

from archwright.contract.decision import CostDriver, Rival
from archwright.contract.needs import NeedsSource
from archwright.contract.plan import Option, Plan
from archwright.plan.decision.selection import FEASIBLE_PREFIX, build_infeasible_error
from archwright.report import charts
from archwright.report import document as doc
from archwright.report import number_format as fmt

AT_RISK = "at risk"
# Notes that have a place of their own.
COVERED_NOTES = (AT_RISK, "a tie")
SENSITIVITIES_SHOWN = 3


def describe_decision(plan: Plan, option: Option | None) -> str:
    if option is None:
        if len(plan.options) < 2:
            single = "The only option evaluated does not satisfy the needs."
            return single if plan.options else "The plan contains no option."
        return f"None of the {len(plan.options)} options evaluated satisfies the needs."
    total = option.total_cost
    text = f"Choose {option.name} ({fmt.describe_placement(option)})"
    if total is None:
        return f"{text}; it has no price."
    band = fmt.format_compact_band(total)
    text += f": {plan.currency} {fmt.format_compact(total.value)} over {plan.horizon_label}"
    text += f" ({fmt.format_percent(total.level)} interval {band})" if band else ""
    amounts = ((option.capex, "of purchases over the horizon"), (option.cost_per_month, "per month without staff"))
    paid = ((amount.value, when) for amount, when in amounts if amount is not None and amount.value > 0)
    parts = [f"{plan.currency} {fmt.format_compact(value)} {when}" for value, when in paid]
    text = f"{text}, with {' and '.join(parts)}." if parts else f"{text}."
    return f"{text} {describe_business_case(plan)}".rstrip()


def describe_business_case(plan: Plan) -> str:
    """A sentence on the return by the figures of the needs; "" if they state no value of a goal."""
    returns = plan.decision.returns
    if returns is None:
        return ""
    net, odds = returns.net, f"in {fmt.format_percent(returns.pays)} of the samples"
    worth = f"by the figures of the needs, the goals bring {plan.currency} {fmt.format_compact(returns.value)}"
    difference = f"{plan.currency} {fmt.format_compact(abs(net.value))}"
    if net.value < 0:
        return f"The case does not pay: {worth}, {difference} less than the cost; it pays {odds}."
    back = f", paid back in month {returns.payback_month}" if returns.payback_month else ""
    return f"The case pays {odds}: {worth}, {difference} more than the cost{back}."


def rank_feasible_options(plan: Plan) -> list[Option]:
    found = [(o.total_cost.value, o) for o in plan.options if o.feasible and o.total_cost is not None]
    return [option for _, option in sorted(found, key=lambda pair: pair[0])]


def decision_chapter(plan: Plan, option: Option | None) -> doc.Chapter:
    blocks = tuple(_infeasibility_blocks(plan)) if option is None else _chosen_blocks(plan, option)
    if plan.not_sized:
        text = f"This plan does not size or predict {fmt.format_count(len(plan.not_sized), 'thing')}; see chapter Risk."
        blocks += (doc.Callout("Not sized", text),)
    lead = _explain_choice(plan, option) if option is not None else "Why, and the nearest options."
    return doc.Chapter("decision", "The decision", lead, blocks)


def _chosen_blocks(plan: Plan, option: Option) -> tuple[doc.Block, ...]:
    facts = tuple(_sensitivity_items(plan))
    count = "Three facts" if len(facts) == SENSITIVITIES_SHOWN else "Facts"
    return doc.keep_blocks(
        _approval_callout(plan, option),
        doc.Tiles(tuple(_decision_tiles(plan, option))),
        _tie_callout(plan, option),
        doc.build_items(f"{count} to check before signing", facts),
        _limits_at_risk(option),
        next((charts.draw_schedule(s) for s in plan.decision.schedules if s.option == option.name), None),
        doc.build_items("Notes on this option", (note for note in option.notes if not note.startswith(COVERED_NOTES))),
    )


def _approval_callout(plan: Plan, option: Option) -> doc.Callout | None:
    """The amounts to approve, and the expected date of production."""
    if option.total_cost is None or not option.cumulative_cost:
        return None
    currency, months = plan.currency, plan.horizon_months
    text = f"{currency} {fmt.format_compact(option.total_cost.value)} over {months} months: {currency} "
    text += f"{fmt.format_compact(option.cumulative_cost[0])} in the first month"
    if months > 12:
        text += f" and {currency} {fmt.format_compact(option.cumulative_cost[11])} in the first year"
    dates = next((one for one in plan.decision.schedules if one.option == option.name), None)
    pilot = next((phase.ends for phase in dates.phases if phase.name == "pilot"), None) if dates is not None else None
    if pilot is not None:
        text += f". Production is expected {fmt.format_number(pilot.value, 2)} months after the signature "
        text += f"({fmt.format_month_band(pilot)})"
    pays = describe_business_case(plan)
    return doc.Callout("To approve:", f"{text}. {pays}".rstrip(), "bad" if "does not pay" in pays else "good")


def _decision_tiles(plan: Plan, option: Option) -> Iterable[doc.Tile]:
    currency = plan.currency
    for label, amount in (
        (f"Total over {plan.horizon_label}", option.total_cost),
        ("Per month, without staff", option.cost_per_month),
        ("Purchases over the horizon", option.capex),
    ):
        if amount is not None:
            band = fmt.format_compact_band(amount)
            note = f"{fmt.format_percent(amount.level)} interval {band}" if band else "exact"
            yield doc.Tile(label, f"{currency} {fmt.format_compact(amount.value)}", note)
    returns = plan.decision.returns
    if returns is not None:
        payback = f"paid back in month {returns.payback_month}" if returns.payback_month else "not paid back in time"
        yield doc.Tile("Value of the goals, less cost", f"{currency} {fmt.format_compact(returns.net.value)}", payback)
    even = next((r for r in plan.decision.rivals if r.break_even_month is not None and r.break_even_month > 1), None)
    if even is not None:
        yield doc.Tile("Break-even", f"month {even.break_even_month}", f"against {even.option}")
    if (power := option.power_kw) is not None:
        yield doc.Tile("Power at the plug", fmt.format_measure(power.value, "kW"), fmt.format_band(power))


def _explain_choice(plan: Plan, option: Option) -> str:
    """The rank of the option by cost, and its extra cost if it is not the cheapest."""
    ranked, own = rank_feasible_options(plan), option.total_cost
    evaluated = f"{fmt.format_count(len(plan.options), 'option')} evaluated, {len(ranked)} feasible."
    if own is None or not ranked:
        return evaluated
    first = next((other for other in ranked if other.name != option.name), None)
    if first is None or first.total_cost is None:
        return f"{evaluated} It is the only one that satisfies the needs."
    more = first.total_cost.value - own.value
    part = f" ({fmt.format_percent(abs(more) / own.value)})" if own.value > 0 else ""
    amount = f"{plan.currency} {fmt.format_compact(abs(more))}{part}"
    if more >= 0:
        return f"{evaluated} It is the cheapest; the next, {first.name}, costs {amount} more."
    return (
        f"{evaluated} It is not the cheapest: {first.name} would cost {amount} less. The notes below give the reason."
    )


def _tie_callout(plan: Plan, option: Option) -> doc.Callout | None:
    names = "; ".join(
        f"{rival.option} costs the same in every sample"
        if rival.equal
        else f"{rival.option} is cheaper with probability {fmt.format_percent(rival.cheaper)} ({rival.closeness})"
        for rival in plan.decision.rivals
        if rival.tie and rival.option != option.name
    )
    text = "With the same samples of all shared facts, cost does not separate these options from the chosen one: "
    return doc.Callout("A tie", f"{text}{names}.") if names else None


def _sensitivity_items(plan: Plan) -> Iterable[doc.Item]:
    """Facts that change the choice first, then the strongest of the others."""
    ordered = sorted(plan.decision.drivers, key=lambda driver: driver.flips_to is None)
    names = charts.name_drivers(plan.decision.drivers)
    for driver in ordered[:SENSITIVITIES_SHOWN]:
        name = names[driver.basis]
        lead = driver.name if name == driver.name else f"{driver.name} ({name})"
        yield doc.Item(lead, describe_switch_point(driver))


def describe_switch_point(driver: CostDriver) -> str:
    unit, at = driver.estimate.unit, driver.flips_at
    now = f"taken as {fmt.format_with_band(driver.estimate)}"
    if driver.flips_to is None or at is None:
        return f"{now}; no value within a factor of ten changes the choice"
    where = "inside its interval" if driver.inside else "outside its interval"
    return f"{now}; at {fmt.format_measure(at, unit)}, {where}, {driver.consequence}"


def _limits_at_risk(option: Option | None) -> doc.Items | None:
    """Limits inside a band: the value meets them, the true value may not."""
    risky = [note for note in (option.notes if option is not None else ()) if note.startswith(AT_RISK)]
    return doc.build_items("Limits at risk", (note.removeprefix(AT_RISK).lstrip(": ") for note in risky))


def _infeasibility_blocks(plan: Plan) -> Iterable[doc.Block]:
    """The nearest options by number of violations and cost; options that a limit meets at best come last."""
    if not plan.options:
        return

    def distance(option: Option) -> tuple[bool, int, float]:
        at_best = any(miss.at_best for miss in option.misses)
        return at_best, len(option.misses), option.total_cost.value if option.total_cost is not None else float("inf")

    nearest = sorted(plan.options, key=distance)[:3]
    text = "Every option violates a hard limit of the needs. The nearest options violate these limits:"
    yield doc.Callout("Nothing feasible", text, "bad")
    misses = (doc.Item(option.name, "; ".join(map(fmt.describe_miss, option.misses))) for option in nearest)
    relaxations = doc.build_items("Changes that make an option feasible", list_relaxations(plan))
    yield from doc.keep_blocks(doc.build_items("Nearest options", misses), relaxations)


def list_relaxations(plan: Plan) -> tuple[str, ...]:
    """The smallest relaxations with their extra cost, as `archwright plan` prints them."""
    hint = build_infeasible_error(plan, NeedsSource(file=plan.needs_file, digest=plan.needs_digest, lines={})).hint
    return tuple(hint.removeprefix(FEASIBLE_PREFIX).split(", or ")) if hint.startswith(FEASIBLE_PREFIX) else ()


def options_chapter(plan: Plan) -> doc.Chapter:
    ordered = charts.order_options(plan.options, plan.chosen)
    picture = charts.draw_option_costs(plan)
    rivals = {rival.option: rival for rival in plan.decision.rivals}
    body = (_option_row(plan, option, rivals.get(option.name)) for option in ordered)
    marked = 0 if plan.chosen is not None and ordered else None
    axes = fmt.format_list((axis.replace("_", " ") for axis in plan.decision.axes), most=9)
    note = f"Pareto: no other option is at least as good in all of {axes}." if axes else ""
    columns = {"Option": 2.6, f"Total, {plan.currency}": 1.5, "Per month without staff": 1.3, "Purchases": 1.3}
    columns["Verdict"] = 2.4
    table = doc.build_table("Options side by side", columns, body, numeric=(1, 2, 3), marked=marked, note=note)
    order = "the chosen option first, then by cost, infeasible options last" if plan.chosen else "the cheapest first"
    lead = f"{fmt.format_count(len(plan.options), 'option')}: {order}."
    return doc.Chapter("options", "Options side by side", lead, doc.keep_blocks(picture, table))


def _option_row(plan: Plan, option: Option, rival: Rival | None) -> Iterable[doc.Cell]:
    is_chosen = option.name == plan.chosen
    models = fmt.format_list(sorted(set(option.models.values())), most=3)
    yield doc.build_cell(option.name, fmt.describe_placement(option), models, tone="strong" if is_chosen else "")
    for amount in (option.total_cost, option.cost_per_month, option.capex):
        yield doc.build_money_cell(amount)
    pareto = "on the Pareto front" if option.name in plan.decision.pareto else ""
    if is_chosen:
        yield doc.build_cell("chosen", pareto, tone="good")
    elif option.feasible:
        cost = ""
        if rival is not None:
            cost = f"cheaper than the chosen option with probability {fmt.format_percent(rival.cheaper)}"
            cost += f": {rival.closeness}" if rival.tie else ""
            cost = "costs the same as the chosen option" if rival.equal else cost
        yield doc.build_cell("feasible", pareto, cost)
    else:
        yield doc.build_cell("not feasible", *map(fmt.describe_miss, option.misses), tone="bad")


def risk_chapter(plan: Plan, option: Option | None) -> doc.Chapter:
    """Facts that could make the plan wrong, the strongest first, and what the plan leaves out."""
    drivers = plan.decision.drivers
    body = (
        (
            doc.build_cell(d.name, d.basis),
            fmt.format_with_band(d.estimate),
            fmt.format_percent(d.share) if d.share else doc.Cell("rivals only", tone="quiet"),
            _switch_point_cell(d),
        )
        for d in drivers
    )
    columns = {"Fact": 2.2, "Taken as": 2, "Of the variance": 1, "The choice changes": 2.6}
    table = doc.build_table("Facts with the largest effect on cost", columns, body, numeric=(2,)) if drivers else None
    shares = (
        doc.Item(name, f"{fmt.format_percent(share)} of the total depends on facts of this confidence")
        for name, share in sorted(plan.decision.confidence.items(), key=lambda pair: -pair[1])
    )
    blocks = doc.keep_blocks(
        charts.draw_sensitivity(drivers),
        table,
        doc.build_items("Confidence of the facts", shares),
        _limits_at_risk(option),
        doc.build_items("Not sized", plan.not_sized),
        doc.build_items("Stale facts, with wider intervals", plan.stale_facts),
    )
    lead = "Every fact has an interval. The choice is only as certain as the fact that could change it."
    return doc.Chapter("risk", "Risk", lead, blocks)


def _switch_point_cell(driver: CostDriver) -> doc.Cell:
    if driver.flips_to is None or driver.flips_at is None:
        return doc.Cell("not within a factor of ten", tone="quiet")
    limit = f"at the budget's {driver.limit.replace('_', ' ')} limit" if driver.limit else ""
    inside = "inside its interval" if driver.inside else "outside its interval"
    at = f"at {fmt.format_measure(driver.flips_at, driver.estimate.unit)}"
    return doc.build_cell(at, ("to", driver.flips_to), limit, inside, tone="warn" if driver.inside else "")
