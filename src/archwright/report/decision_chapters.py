"""The choice in words, and the chapters that support it: options, and uncertain facts."""

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
SMALLEST_SHARE = 0.005
TIE_TEXT = "With the same samples of all shared facts, cost does not separate these options from the chosen one:"


def describe_decision(plan: Plan, option: Option | None) -> str:
    """The recommendation with its cost; the business case has its own sentence."""
    if option is None:
        return _describe_infeasibility(plan)

    verb = "Choose"
    if not option.feasible:
        verb = "Nearest option, which violates limits of the needs:"
    text = f"{verb} {option.name} ({describe_placement(option)})"
    total = option.total_cost
    if total is None:
        return f"{text}; it has no price."

    text += f": {fmt.format_money(total.value, plan.currency)} over {plan.horizon_label}"
    interval = fmt.format_money_interval(total)
    if interval:
        text += f" ({fmt.format_share(total.level)} band {interval})"
    business_case = describe_business_case(plan)
    if "does not pay" in business_case:
        return f"{text}. {business_case}"
    return f"{text}."


def _describe_infeasibility(plan: Plan) -> str:
    if not plan.options:
        return "The plan contains no option."
    if len(plan.options) == 1:
        return "The only option evaluated does not satisfy the needs."
    return f"None of the {len(plan.options)} options evaluated satisfies the needs."


def describe_business_case(plan: Plan) -> str:
    """A sentence on the return by the figures of the needs; "" if they state no value of a goal."""
    returns = plan.decision.returns
    if returns is None:
        return ""

    odds = f"in {fmt.format_share(returns.pays)} of the samples"
    value = fmt.format_money(returns.value, plan.currency)
    goals = f"by the figures of the needs, the goals bring {value}"
    net_value = returns.net.value
    difference = fmt.format_money(abs(net_value), plan.currency)
    if net_value < 0:
        return f"The case does not pay: {goals}, {difference} less than the cost; it pays {odds}."

    payback = ""
    if returns.payback_month:
        payback = f", paid back in month {returns.payback_month}"
    return f"The case pays {odds}: {goals}, {difference} more than the cost{payback}."


def rank_feasible_options(plan: Plan) -> list[Option]:
    """The feasible options with a price, the cheapest first."""
    priced: list[tuple[float, Option]] = []
    for option in plan.options:
        if option.feasible and option.total_cost is not None:
            priced.append((option.total_cost.value, option))
    priced.sort(key=lambda pair: pair[0])
    return [option for _, option in priced]


def find_extra_cost(option: Option, alternative: Option) -> float:
    """Extra cost of the alternative over the horizon, in the plan's currency; 0 without a price."""
    if option.total_cost is None or alternative.total_cost is None:
        return 0.0
    return alternative.total_cost.value - option.total_cost.value


def describe_choice(plan: Plan, option: Option) -> str:
    """The rank of the option by cost, and its extra cost if it is not the cheapest."""
    ranked = rank_feasible_options(plan)
    evaluated_count = fmt.format_count(len(plan.options), "option")
    evaluated = f"{evaluated_count} evaluated, {len(ranked)} feasible."
    if option.total_cost is None or not ranked:
        return evaluated

    rivals = [rival for rival in ranked if rival.name != option.name]
    if not rivals:
        return f"{evaluated} It is the only one that satisfies the needs."

    cheapest = rivals[0]
    extra_cost = find_extra_cost(option, cheapest)
    amount = fmt.format_money(abs(extra_cost), plan.currency)
    if option.total_cost.value > 0:
        share = abs(extra_cost) / option.total_cost.value
        amount += f" ({fmt.format_share(share)})"
    if extra_cost >= 0:
        return f"{evaluated} It is the cheapest; the next, {cheapest.name}, costs {amount} more."
    text = f"{evaluated} It is not the cheapest: {cheapest.name} would cost {amount} less."
    return f"{text} {explain_refusal(option, cheapest)}"


def explain_refusal(option: Option, cheaper: Option) -> str:
    """A sentence on why the plan passed over a cheaper option.

    The needs prefer the placement, or the cheaper option has less certain limits.
    """
    is_preferred = any(note.startswith(PREFERRED) for note in option.notes)
    if is_preferred and cheaper.placement != option.placement:
        return "The needs prefer the placement of this plan."
    if len(cheaper.doubts) <= len(option.doubts):
        return "The rules of the plan prefer this one."
    doubts: list[str] = []
    for limit in cheaper.doubts:
        doubts.append(f"{name_limit(limit.limit)} with {fmt.format_share(limit.probability)}")
    return f"It holds {fmt.format_list(doubts, most=2)} only."


def _tie_callout(plan: Plan, option: Option) -> doc.Callout | None:
    ties: list[str] = []
    for rival in plan.decision.rivals:
        if not rival.tie or rival.option == option.name:
            continue
        if rival.equal:
            ties.append(f"{rival.option} costs the same in every sample")
            continue
        share = fmt.format_share(rival.cheaper)
        ties.append(f"{rival.option} is cheaper with probability {share} ({rival.closeness})")
    if not ties:
        return None
    return doc.Callout("A tie", f"{TIE_TEXT} {'; '.join(ties)}.")


def infeasibility_blocks(plan: Plan) -> Iterable[doc.Block]:
    """The nearest options by number of violations and cost; those that miss at best come last."""
    if not plan.options:
        return

    text = "Every option violates a hard limit of the needs. "
    text += "The nearest options violate these limits:"
    yield doc.Callout("Nothing feasible", text, "bad")

    items: list[doc.Item] = []
    for option in sorted(plan.options, key=_measure_distance)[:3]:
        misses = map(describe_miss, option.misses)
        items.append(doc.Item(option.name, "; ".join(misses)))
    nearest = doc.build_items("Nearest options", items)
    title = "Changes that make an option feasible"
    relaxations = doc.build_items(title, list_relaxations(plan))
    yield from doc.keep_blocks(nearest, relaxations)


def _measure_distance(option: Option) -> tuple[bool, int, float]:
    """How far an option is from feasible, to sort options by."""
    misses_at_best = any(miss.at_best for miss in option.misses)
    cost = float("inf") if option.total_cost is None else option.total_cost.value
    return misses_at_best, len(option.misses), cost


def list_relaxations(plan: Plan) -> tuple[str, ...]:
    """The smallest relaxations with their extra cost, as `archwright plan` prints them."""
    source = NeedsSource(file=plan.needs_file, digest=plan.needs_digest, lines={})
    hint = build_infeasible_error(plan, source).hint
    if not hint.startswith(FEASIBLE_PREFIX):
        return ()
    return tuple(hint.removeprefix(FEASIBLE_PREFIX).split(", or "))


def options_chapter(plan: Plan, option: Option | None) -> doc.Chapter:
    """All options with costs and verdicts, their payments over time, and notes."""
    blocks: list[doc.Block | None] = []
    if option is not None:
        blocks.append(_tie_callout(plan, option))
    blocks.append(charts.draw_option_costs(plan))
    blocks.append(options_table(plan))
    blocks.append(draw_cumulative_costs(plan))
    if option is not None:
        blocks.append(_break_even_table(plan, option))
    commands = _list_choice_commands(plan)
    blocks.append(doc.build_items("Commands for the other choices of models", commands))
    if option is not None:
        blocks.append(doc.build_items("Notes on the chosen option", _list_notes(option)))

    order = "the cheapest first"
    if plan.chosen:
        order = "the chosen option first, then by cost, infeasible options last"
    lead = f"{fmt.format_count(len(plan.options), 'option')}: {order}."
    return doc.Chapter("options", "Options side by side", lead, doc.keep_blocks(*blocks))


def _list_notes(option: Option) -> Iterable[str]:
    """The notes without a place of their own in the document."""
    for note in option.notes:
        if not note.startswith(COVERED_NOTES) and UPSTREAM.match(note) is None:
            yield note


def _list_choice_commands(plan: Plan) -> Iterable[doc.Item]:
    """The command that plans with the models of each further choice."""
    choices = [choice for choice, is_repeated in plan.decision.list_choices() if not is_repeated]
    for choice in choices[1:]:
        changes = choice.list_changes(choices[0])
        if changes:
            options = " ".join(f"--what-if {change}" for change in changes)
            yield doc.Item(choice.label, f"archwright plan {plan.needs_file} {options}")


def options_table(plan: Plan, most: int | None = None) -> doc.TableBlock:
    options = charts.order_options(plan.options, plan.chosen)[:most]
    rivals = {rival.option: rival for rival in plan.decision.rivals}
    body: list[Iterable[doc.Cell]] = []
    for option in options:
        body.append(_option_row(plan, option, rivals.get(option.name)))

    marked = None if plan.chosen is None or not options else 0
    note = ""
    if plan.decision.axes:
        axes = [axis.replace("_", " ") for axis in plan.decision.axes]
        axis_list = fmt.format_list(axes, most=9)
        note = f"Pareto: no other option is at least as good in all of {axis_list}."
    columns = {"Option": 2.6, f"Total, {plan.currency}": 1.5}
    columns |= {"Per month without staff": 1.3, "Purchases": 1.3, "Verdict": 2.4}
    caption = "Options side by side"
    return doc.build_table(caption, columns, body, numeric=(1, 2, 3), marked=marked, note=note)


def _break_even_table(plan: Plan, option: Option) -> doc.TableBlock | None:
    body: list[tuple[str, str, str]] = []
    for rival in plan.decision.rivals:
        if rival.option == option.name:
            continue
        share = fmt.format_share(rival.cheaper)
        body.append((rival.option, _describe_break_even(rival), share))
    if not body:
        return None
    columns = {"Against": 3, "Break-even": 3, "Cheaper than the chosen option in": 2}
    note = "Share of the joint samples of all facts."
    return doc.build_table("Break-even between options", columns, body, numeric=(2,), note=note)


def _describe_break_even(rival: Rival) -> str:
    month = rival.break_even_month
    if rival.equal:
        return "costs the same in every month"
    if month is None:
        return "the chosen option is not cheaper within the horizon"
    start = "the start" if month <= 1 else f"month {month}"
    return f"the chosen option is cheaper from {start}"


def _option_row(plan: Plan, option: Option, rival: Rival | None) -> Iterable[doc.Cell]:
    is_chosen = option.name == plan.chosen
    tone: doc.Tone = "strong" if is_chosen else ""
    models = fmt.format_list(sorted(set(option.models.values())), most=3)
    yield doc.build_cell(option.name, describe_placement(option), models, tone=tone)

    for amount in (option.total_cost, option.cost_per_month, option.capex):
        yield doc.build_money_cell(amount)

    pareto = "on the Pareto front" if option.name in plan.decision.pareto else ""
    if is_chosen:
        yield doc.build_cell("chosen", pareto, tone="good")
    elif option.feasible:
        yield doc.build_cell("feasible", pareto, _compare_cost(rival))
    else:
        misses = map(describe_miss, option.misses)
        yield doc.build_cell("not feasible", *misses, tone="bad")


def _compare_cost(rival: Rival | None) -> str:
    """How an option compares in cost with the chosen one; "" if it was not compared."""
    if rival is None:
        return ""
    if rival.equal:
        return "costs the same as the chosen option"
    share = fmt.format_share(rival.cheaper)
    closeness = f": {rival.closeness}" if rival.tie else ""
    return f"cheaper than the chosen option with probability {share}{closeness}"


def uncertainty_chapter(plan: Plan) -> doc.Chapter:
    """Facts that could change the choice, the strongest first, and what the plan leaves out."""
    blocks = doc.keep_blocks(
        _driver_table(plan.decision.drivers),
        doc.build_items("Confidence of the facts", _list_confidences(plan)),
        doc.build_items("Not sized or not predicted", plan.not_sized),
    )
    lead = "Every fact has an interval. "
    lead += "The choice is only as certain as the fact that could change it."
    return doc.Chapter("uncertainty", "Uncertain facts", lead, blocks)


def _driver_table(drivers: tuple[CostDriver, ...]) -> doc.TableBlock | None:
    if not drivers:
        return None
    columns = {"Fact": 2.2, "Taken as": 2, "Of the variance": 1, "The choice changes": 2.6}
    body = map(_driver_row, drivers)
    return doc.build_table("Facts with the largest effect on cost", columns, body, numeric=(2,))


def _driver_row(driver: CostDriver) -> Iterable[doc.Cell | str]:
    yield doc.build_cell(driver.name, driver.basis)
    yield fmt.format_estimate(driver.estimate)
    if driver.share:
        yield fmt.format_share(driver.share)
    else:
        yield doc.Cell("rivals only", tone="quiet")
    yield _switch_point_cell(driver)


def _list_confidences(plan: Plan) -> Iterable[doc.Item]:
    """Shares of the total by the confidence of the facts behind it, the largest first."""
    shares = sorted(plan.decision.confidence.items(), key=lambda pair: -pair[1])
    for name, share in shares:
        if share >= SMALLEST_SHARE:
            text = f"{fmt.format_share(share)} of the total depends on such facts"
            yield doc.Item(f"{name} confidence", text)


def _switch_point_cell(driver: CostDriver) -> doc.Cell:
    if driver.flips_to is None or driver.flips_at is None:
        return doc.Cell("not within a factor of ten", tone="quiet")

    switch_point = fmt.format_quantity(driver.flips_at, driver.estimate.unit)
    budget = ""
    if driver.limit:
        budget = f"at the budget's {driver.limit.replace('_', ' ')} limit"
    position = "outside its interval"
    tone: doc.Tone = ""
    if driver.inside:
        position = "inside its interval"
        tone = "warn"
    option = ("to", driver.flips_to)
    return doc.build_cell(f"at {switch_point}", option, budget, position, tone=tone)
