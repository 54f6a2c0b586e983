"""The choice in words, and the chapters that support it: options with their break-evens, and uncertain facts."""

from collections.abc import Iterable

from archwright.contract import number_format as fmt
from archwright.contract.decision import CostDriver, Rival
from archwright.contract.needs import NeedsSource
from archwright.contract.plan import Option, Plan
from archwright.plan.decision.selection import FEASIBLE_PREFIX, build_infeasible_error
from archwright.report import charts
from archwright.report import document as doc
from archwright.report.cumulative_cost_chart import draw_cumulative_costs
from archwright.report.delivery_chapters import UPSTREAM
from archwright.report.plan_texts import describe_miss, describe_placement
from archwright.report.risk_register import name_limit

# Notes that have a place of their own: the risk register and the options.
COVERED_NOTES = ("at risk", "a tie", "close: ")
PREFERRED = "preferred over "


def describe_decision(plan: Plan, option: Option | None) -> str:
    """The recommendation with its cost; the business case has its own sentence."""
    if option is None:
        if len(plan.options) < 2:
            single = "The only option evaluated does not satisfy the needs."
            return single if plan.options else "The plan contains no option."
        return f"None of the {len(plan.options)} options evaluated satisfies the needs."
    total = option.total_cost
    verb = "Choose" if option.feasible else "Nearest option, which violates limits of the needs:"
    text = f"{verb} {option.name} ({describe_placement(option)})"
    if total is None:
        return f"{text}; it has no price."
    band = fmt.format_money_interval(total)
    text += f": {fmt.format_money(total.value, plan.currency)} over {plan.horizon_label}"
    text += f" ({fmt.format_share(total.level)} band {band})." if band else "."
    pays = describe_business_case(plan)
    return f"{text} {pays}" if "does not pay" in pays else text


def describe_business_case(plan: Plan) -> str:
    """A sentence on the return by the figures of the needs; "" if they state no value of a goal."""
    returns = plan.decision.returns
    if returns is None:
        return ""
    net, odds = returns.net, f"in {fmt.format_share(returns.pays)} of the samples"
    worth = f"by the figures of the needs, the goals bring {fmt.format_money(returns.value, plan.currency)}"
    difference = f"{fmt.format_money(abs(net.value), plan.currency)}"
    if net.value < 0:
        return f"The case does not pay: {worth}, {difference} less than the cost; it pays {odds}."
    back = f", paid back in month {returns.payback_month}" if returns.payback_month else ""
    return f"The case pays {odds}: {worth}, {difference} more than the cost{back}."


def rank_feasible_options(plan: Plan) -> list[Option]:
    found = [(o.total_cost.value, o) for o in plan.options if o.feasible and o.total_cost is not None]
    return [option for _, option in sorted(found, key=lambda pair: pair[0])]


def find_extra_cost(option: Option, other: Option) -> float:
    """Extra cost of the other option over the horizon, in the plan's currency; 0 without a price."""
    mine, theirs = option.total_cost, other.total_cost
    return theirs.value - mine.value if mine is not None and theirs is not None else 0.0


def describe_choice(plan: Plan, option: Option) -> str:
    """The rank of the option by cost, and its extra cost if it is not the cheapest."""
    ranked, own = rank_feasible_options(plan), option.total_cost
    evaluated = f"{fmt.format_count(len(plan.options), 'option')} evaluated, {len(ranked)} feasible."
    if own is None or not ranked:
        return evaluated
    first = next((other for other in ranked if other.name != option.name), None)
    if first is None or first.total_cost is None:
        return f"{evaluated} It is the only one that satisfies the needs."
    more = first.total_cost.value - own.value
    part = f" ({fmt.format_share(abs(more) / own.value)})" if own.value > 0 else ""
    amount = f"{fmt.format_money(abs(more), plan.currency)}{part}"
    if more >= 0:
        return f"{evaluated} It is the cheapest; the next, {first.name}, costs {amount} more."
    return (
        f"{evaluated} It is not the cheapest: {first.name} would cost {amount} less. {explain_refusal(option, first)}"
    )


def explain_refusal(option: Option, cheaper: Option) -> str:
    """A sentence on why the plan passed over a cheaper option: a preferred placement, or less certain limits."""
    if any(note.startswith(PREFERRED) for note in option.notes) and cheaper.placement != option.placement:
        return "The needs prefer the placement of this plan."
    if len(cheaper.doubts) <= len(option.doubts):
        return "The rules of the plan prefer this one."
    doubts = (f"{name_limit(one.limit)} with {fmt.format_share(one.probability)}" for one in cheaper.doubts)
    return f"It holds {fmt.format_list(doubts, most=2)} only."


def _tie_callout(plan: Plan, option: Option) -> doc.Callout | None:
    names = "; ".join(
        f"{rival.option} costs the same in every sample"
        if rival.equal
        else f"{rival.option} is cheaper with probability {fmt.format_share(rival.cheaper)} ({rival.closeness})"
        for rival in plan.decision.rivals
        if rival.tie and rival.option != option.name
    )
    text = "With the same samples of all shared facts, cost does not separate these options from the chosen one: "
    return doc.Callout("A tie", f"{text}{names}.") if names else None


def infeasibility_blocks(plan: Plan) -> Iterable[doc.Block]:
    """The nearest options by number of violations and cost; options that a limit meets at best come last."""
    if not plan.options:
        return

    def distance(option: Option) -> tuple[bool, int, float]:
        at_best = any(miss.at_best for miss in option.misses)
        return at_best, len(option.misses), option.total_cost.value if option.total_cost is not None else float("inf")

    nearest = sorted(plan.options, key=distance)[:3]
    text = "Every option violates a hard limit of the needs. The nearest options violate these limits:"
    yield doc.Callout("Nothing feasible", text, "bad")
    misses = (doc.Item(option.name, "; ".join(map(describe_miss, option.misses))) for option in nearest)
    relaxations = doc.build_items("Changes that make an option feasible", list_relaxations(plan))
    yield from doc.keep_blocks(doc.build_items("Nearest options", misses), relaxations)


def list_relaxations(plan: Plan) -> tuple[str, ...]:
    """The smallest relaxations with their extra cost, as `archwright plan` prints them."""
    hint = build_infeasible_error(plan, NeedsSource(file=plan.needs_file, digest=plan.needs_digest, lines={})).hint
    return tuple(hint.removeprefix(FEASIBLE_PREFIX).split(", or ")) if hint.startswith(FEASIBLE_PREFIX) else ()


def options_chapter(plan: Plan, option: Option | None) -> doc.Chapter:
    """All options with costs and verdicts, their payments over time, and the notes on the chosen one."""
    notes = (
        note
        for note in (option.notes if option is not None else ())
        if not note.startswith(COVERED_NOTES) and UPSTREAM.match(note) is None
    )
    blocks = doc.keep_blocks(
        _tie_callout(plan, option) if option is not None else None,
        charts.draw_option_costs(plan),
        options_table(plan),
        draw_cumulative_costs(plan),
        _break_even_table(plan, option) if option is not None else None,
        doc.build_items("Commands for the other choices of models", _list_choice_commands(plan)),
        doc.build_items("Notes on the chosen option", notes),
    )
    order = "the chosen option first, then by cost, infeasible options last" if plan.chosen else "the cheapest first"
    lead = f"{fmt.format_count(len(plan.options), 'option')}: {order}."
    return doc.Chapter("options", "Options side by side", lead, blocks)


def _list_choice_commands(plan: Plan) -> Iterable[doc.Item]:
    """The command that plans with the models of each further choice."""
    choices = [choice for choice, is_repeated in plan.decision.list_choices() if not is_repeated]
    for choice in choices[1:]:
        changes = choice.list_changes(choices[0])
        if changes:
            options = " ".join(f"--what-if {change}" for change in changes)
            yield doc.Item(choice.label, f"archwright plan {plan.needs_file} {options}")


def options_table(plan: Plan, most: int | None = None) -> doc.TableBlock:
    ordered = charts.order_options(plan.options, plan.chosen)[:most]
    rivals = {rival.option: rival for rival in plan.decision.rivals}
    body = (_option_row(plan, option, rivals.get(option.name)) for option in ordered)
    marked = 0 if plan.chosen is not None and ordered else None
    axes = fmt.format_list((axis.replace("_", " ") for axis in plan.decision.axes), most=9)
    note = f"Pareto: no other option is at least as good in all of {axes}." if axes else ""
    columns = {"Option": 2.6, f"Total, {plan.currency}": 1.5, "Per month without staff": 1.3, "Purchases": 1.3}
    columns["Verdict"] = 2.4
    return doc.build_table("Options side by side", columns, body, numeric=(1, 2, 3), marked=marked, note=note)


def _break_even_table(plan: Plan, option: Option) -> doc.TableBlock | None:
    rivals = [rival for rival in plan.decision.rivals if rival.option != option.name]
    body = ((r.option, _describe_break_even(r), fmt.format_share(r.cheaper)) for r in rivals)
    columns = {"Against": 3, "Break-even": 3, "Cheaper than the chosen option in": 2}
    note = "Share of the joint samples of all facts."
    return doc.build_table("Break-even between options", columns, body, numeric=(2,), note=note) if rivals else None


def _describe_break_even(rival: Rival) -> str:
    month = rival.break_even_month
    if rival.equal:
        return "costs the same in every month"
    if month is None:
        return "the chosen option is not cheaper within the horizon"
    return f"the chosen option is cheaper from {'the start' if month <= 1 else f'month {month}'}"


def _option_row(plan: Plan, option: Option, rival: Rival | None) -> Iterable[doc.Cell]:
    is_chosen = option.name == plan.chosen
    models = fmt.format_list(sorted(set(option.models.values())), most=3)
    yield doc.build_cell(option.name, describe_placement(option), models, tone="strong" if is_chosen else "")
    for amount in (option.total_cost, option.cost_per_month, option.capex):
        yield doc.build_money_cell(amount)
    pareto = "on the Pareto front" if option.name in plan.decision.pareto else ""
    if is_chosen:
        yield doc.build_cell("chosen", pareto, tone="good")
    elif option.feasible:
        cost = ""
        if rival is not None:
            cost = f"cheaper than the chosen option with probability {fmt.format_share(rival.cheaper)}"
            cost += f": {rival.closeness}" if rival.tie else ""
            cost = "costs the same as the chosen option" if rival.equal else cost
        yield doc.build_cell("feasible", pareto, cost)
    else:
        yield doc.build_cell("not feasible", *map(describe_miss, option.misses), tone="bad")


def uncertainty_chapter(plan: Plan) -> doc.Chapter:
    """Facts that could change the choice, the strongest first, and what the plan leaves out."""
    drivers = plan.decision.drivers
    body = (
        (
            doc.build_cell(d.name, d.basis),
            fmt.format_estimate(d.estimate),
            fmt.format_share(d.share) if d.share else doc.Cell("rivals only", tone="quiet"),
            _switch_point_cell(d),
        )
        for d in drivers
    )
    columns = {"Fact": 2.2, "Taken as": 2, "Of the variance": 1, "The choice changes": 2.6}
    table = doc.build_table("Facts with the largest effect on cost", columns, body, numeric=(2,)) if drivers else None
    shares = (
        doc.Item(f"{name} confidence", f"{fmt.format_share(share)} of the total depends on such facts")
        for name, share in sorted(plan.decision.confidence.items(), key=lambda pair: -pair[1])
        if share >= 0.005
    )
    blocks = doc.keep_blocks(
        table,
        doc.build_items("Confidence of the facts", shares),
        doc.build_items("Not sized or not predicted", plan.not_sized),
    )
    lead = "Every fact has an interval. The choice is only as certain as the fact that could change it."
    return doc.Chapter("uncertainty", "Uncertain facts", lead, blocks)


def _switch_point_cell(driver: CostDriver) -> doc.Cell:
    if driver.flips_to is None or driver.flips_at is None:
        return doc.Cell("not within a factor of ten", tone="quiet")
    limit = f"at the budget's {driver.limit.replace('_', ' ')} limit" if driver.limit else ""
    inside = "inside its interval" if driver.inside else "outside its interval"
    at = f"at {fmt.format_quantity(driver.flips_at, driver.estimate.unit)}"
    return doc.build_cell(at, ("to", driver.flips_to), limit, inside, tone="warn" if driver.inside else "")
