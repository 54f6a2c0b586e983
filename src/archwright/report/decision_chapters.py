"""The chapters for who decides: the decision, its rivals, its risk."""

from __future__ import annotations

from collections.abc import Iterable

from archwright.contract.decision import NEAR_COST_SHARE, CostDriver, Rival
from archwright.contract.estimate import Estimate
from archwright.contract.needs import NeedsSource
from archwright.contract.plan import Option, Plan
from archwright.plan.decision.selection import FEASIBLE_PREFIX, why_infeasible
from archwright.report import charts
from archwright.report.document import (
    Block,
    Callout,
    Cell,
    CellNote,
    Chapter,
    Column,
    FigureBlock,
    Item,
    Items,
    TableBlock,
    Tile,
    Tiles,
    build_notes,
    build_rows,
)
from archwright.report.number_format import (
    describe_miss,
    describe_placement,
    format_band,
    format_compact,
    format_compact_band,
    format_count,
    format_list,
    format_measure,
    format_money,
    format_number,
    format_percent,
    format_with_band,
)

AT_RISK = "at risk"
# Notes that have a place of their own.
COVERED_NOTES = (AT_RISK, "a tie", f"within {NEAR_COST_SHARE:.0%}")
SENSITIVITIES_SHOWN = 3


def describe_decision(plan: Plan, option: Option | None) -> str:
    """The decision in one sentence."""
    if option is None:
        if len(plan.options) < 2:
            return (
                "The one option looked at does not satisfy the needs." if plan.options else "The plan holds no option."
            )
        return f"None of the {len(plan.options)} options looked at satisfies the needs."
    total = option.total_cost
    said = f"Choose {option.name} ({describe_placement(option)})"
    if total is None:
        return f"{said}; it has no price."
    band = format_compact_band(total)
    said += f": {plan.currency} {format_compact(total.value)} over {plan.horizon_label}"
    said += f" ({format_percent(total.level)} band {band})" if band else ""
    parts = [
        f"{plan.currency} {format_compact(amount.value)} {when}"
        for amount, when in (
            (option.capex, "to buy over the horizon"),
            (option.cost_per_month, "a month to run without staff"),
        )
        if amount is not None and amount.value > 0
    ]
    said = f"{said}, with {' and '.join(parts)}." if parts else f"{said}."
    return f"{said} {describe_business_case(plan)}".rstrip()


def describe_business_case(plan: Plan) -> str:
    """Whether the case pays, by the needs' own figures; "" where these state no worth."""
    returns = plan.decision.returns
    if returns is None:
        return ""
    net, odds = returns.net, f"in {format_percent(returns.pays)} of the draws"
    worth = f"the goals bring {plan.currency} {format_compact(returns.value)} by the needs' own figures"
    if net.value < 0:
        return (
            f"The case does not pay: {worth}, {plan.currency} {format_compact(-net.value)} less "
            "than it costs; "
            f"it pays {odds}."
        )
    back = f", paid back in month {returns.payback_month}" if returns.payback_month else ""
    return f"The case pays {odds}: {worth}, {plan.currency} {format_compact(net.value)} more than it costs{back}."


def rank_feasible_options(plan: Plan) -> list[Option]:
    """Options that satisfy the needs and have a price, cheapest first."""
    found = [(o.total_cost.value, o) for o in plan.options if o.feasible and o.total_cost is not None]
    return [option for _, option in sorted(found, key=lambda pair: pair[0])]


def decision_chapter(plan: Plan, option: Option | None) -> Chapter:
    blocks: list[Block] = []
    if option is None:
        blocks += _infeasibility_blocks(plan)
    else:
        blocks += _approval_callout(plan, option)
        blocks.append(Tiles(tuple(_decision_tiles(plan, option))))
        blocks += _tie_callout(plan, option)
        facts = tuple(_sensitivity_items(plan))
        title = (
            "Three facts to check before signing"
            if len(facts) == SENSITIVITIES_SHOWN
            else "What to check before signing"
        )
        blocks += _items_block(title, facts)
        blocks += _limits_at_risk(option)
        blocks += _present_figures(
            next((charts.draw_schedule(s) for s in plan.decision.schedules if s.option == option.name), None)
        )
        known = (note for note in option.notes if not note.startswith(COVERED_NOTES))
        blocks += _items_block("What to know about it", (Item(note) for note in known))
    if plan.not_sized:
        text = f"{format_count(len(plan.not_sized), 'thing')} this plan does not size or promise; see Risk."
        blocks.append(Callout("Not sized", text))
    lead = _explain_choice(plan, option) if option is not None else "Why, and what comes nearest."
    return Chapter("decision", "The decision", lead, tuple(blocks))


def _approval_callout(plan: Plan, option: Option) -> Iterable[Block]:
    """What is to be approved, and what is there when."""
    if option.total_cost is None or not option.cumulative_cost:
        return
    currency, months = plan.currency, plan.horizon_months
    text = f"{currency} {format_compact(option.total_cost.value)} over {months} months, of it {currency} "
    text += f"{format_compact(option.cumulative_cost[0])} in the first month"
    if months > 12:
        text += f" and {currency} {format_compact(option.cumulative_cost[11])} in the first year"
    dates = next((one for one in plan.decision.schedules if one.option == option.name), None)
    pilot = next((phase.ends for phase in dates.phases if phase.name == "pilot"), None) if dates is not None else None
    if pilot is not None:
        ends = f"{format_number(pilot.low, 2)} to {format_number(pilot.high, 2)}"
        text += f". Production is expected {format_number(pilot.value, 2)} months after the signature ({ends})"
    pays = describe_business_case(plan)
    yield Callout("What it asks for:", f"{text}. {pays}".rstrip(), "bad" if "does not pay" in pays else "good")


def _decision_tiles(plan: Plan, option: Option) -> Iterable[Tile]:
    currency = plan.currency
    for label, amount in (
        (f"Total over {plan.horizon_label}", option.total_cost),
        ("A month to run, without staff", option.cost_per_month),
        ("To buy, over the horizon", option.capex),
    ):
        if amount is not None:
            band = format_compact_band(amount)
            said = f"{format_percent(amount.level)} band {band}" if band else "exact"
            yield Tile(label, f"{currency} {format_compact(amount.value)}", said)
    returns = plan.decision.returns
    if returns is not None:
        payback = f"paid back in month {returns.payback_month}" if returns.payback_month else "not paid back in time"
        yield Tile("Worth of the goals, less cost", f"{currency} {format_compact(returns.net.value)}", payback)
    even = next((r for r in plan.decision.rivals if r.break_even_month is not None and r.break_even_month > 1), None)
    if even is not None:
        yield Tile("Break-even", f"month {even.break_even_month}", f"against {even.option}")
    if option.power_kw is not None:
        yield Tile("Power at the plug", format_measure(option.power_kw.value, "kW"), format_band(option.power_kw))


def _explain_choice(plan: Plan, option: Option) -> str:
    """Its rank by cost, in words; what a dearer choice costs more."""
    ranked = rank_feasible_options(plan)
    looked = f"{format_count(len(plan.options), 'option')} looked at, {len(ranked)} feasible."
    own = option.total_cost
    if own is None or not ranked:
        return looked
    others = [other for other in ranked if other.name != option.name]
    if not others:
        return f"{looked} It is the only one that satisfies the needs."
    first = others[0]
    assert first.total_cost is not None
    more = first.total_cost.value - own.value
    part = f" ({format_percent(abs(more) / own.value)})" if own.value > 0 else ""
    amount = f"{plan.currency} {format_compact(abs(more))}{part}"
    if more >= 0:
        return f"{looked} It is the cheapest; the next, {first.name}, costs {amount} more."
    return (
        f"{looked} It is not the cheapest: {first.name} would cost {amount} less. The notes below say why it is chosen."
    )


def _tie_callout(plan: Plan, option: Option) -> Iterable[Block]:
    tied = [rival for rival in plan.decision.rivals if rival.tie and rival.option != option.name]
    if tied:
        names = "; ".join(
            f"{r.option} costs the same in every draw"
            if r.equal
            else f"{r.option} is cheaper with probability {format_percent(r.cheaper)} ({r.closeness})"
            for r in tied
        )
        text = "Judged with the same draws of every fact they share, cost does not tell these from the chosen one: "
        text += f"{names}."
        yield Callout("A tie", text)


def _sensitivity_items(plan: Plan) -> Iterable[Item]:
    """Facts that flip the choice first, then the strongest of the others."""
    ordered = sorted(plan.decision.drivers, key=lambda driver: driver.flips_to is None)
    names = charts.name_drivers(plan.decision.drivers)
    for driver in ordered[:SENSITIVITIES_SHOWN]:
        shown = names[driver.basis]
        yield Item(driver.name if shown == driver.name else f"{driver.name} ({shown})", describe_switch_point(driver))


def describe_switch_point(driver: CostDriver) -> str:
    unit, at = driver.estimate.unit, driver.flips_at
    now = f"taken as {format_with_band(driver.estimate)}"
    if driver.flips_to is None or at is None:
        return f"{now}; no value in reach changes the choice"
    where = "inside its band" if driver.inside else "outside its band"
    return f"{now}; at {format_measure(at, unit)}, {where}, {driver.consequence}"


def _limits_at_risk(option: Option | None) -> Iterable[Block]:
    """Limits that lie inside a band: kept by the value, perhaps not by the truth."""
    risky = [note for note in (option.notes if option is not None else ()) if note.startswith(AT_RISK)]
    return _items_block("Limits at risk", (Item(note.removeprefix(AT_RISK).lstrip(": ")) for note in risky))


def _infeasibility_blocks(plan: Plan) -> Iterable[Block]:
    """The nearest options, by how much they miss and what they cost; last what nobody promises."""
    if not plan.options:
        return

    def distance(option: Option) -> tuple[bool, int, float]:
        hoped = any(miss.at_best for miss in option.misses)
        return hoped, len(option.misses), option.total_cost.value if option.total_cost is not None else float("inf")

    nearest = sorted(plan.options, key=distance)[:3]
    text = "Every option breaks a limit that the needs state as hard. What stands in the way of the nearest:"
    yield Callout("Nothing feasible", text, "bad")
    yield from _items_block("Nearest options", (Item(o.name, "; ".join(map(describe_miss, o.misses))) for o in nearest))
    yield from _items_block("What would make one feasible", map(Item, list_relaxations(plan)))


def list_relaxations(plan: Plan) -> tuple[str, ...]:
    """The smallest relaxations, each with what its option costs beyond the nearest: what `plan` prints."""
    said = why_infeasible(plan, NeedsSource(file=plan.needs_file, digest=plan.needs_digest, lines={})).hint
    return tuple(said.removeprefix(FEASIBLE_PREFIX).split(", or ")) if said.startswith(FEASIBLE_PREFIX) else ()


def _items_block(title: str, items: Iterable[Item]) -> Iterable[Block]:
    found = tuple(items)
    if found:
        yield Items(title, found)


def options_chapter(plan: Plan) -> Chapter:
    """Every option looked at, none hidden."""
    ordered = charts.order_options(plan.options, plan.chosen)
    picture = charts.draw_option_costs(plan.options, plan.chosen, plan.currency, plan.horizon_months)
    rivals = {rival.option: rival for rival in plan.decision.rivals}
    columns = (
        Column("Option", 2.6),
        Column(f"Total, {plan.currency}", 1.5, numeric=True),
        Column("A month without staff", 1.3, numeric=True),
        Column("To buy", 1.3, numeric=True),
        Column("Verdict", 2.4),
    )
    body = build_rows(_option_row(plan, option, rivals.get(option.name)) for option in ordered)
    marked = 0 if plan.chosen is not None and ordered else None
    axes = format_list((axis.replace("_", " ") for axis in plan.decision.axes), most=9)
    note = f"Pareto: no other option is at least as good in every one of {axes}." if axes else ""
    table = TableBlock("Options side by side", columns, body, marked, note)
    order = "the chosen one first, then by cost, infeasible ones last" if plan.chosen else "the cheapest first"
    lead = f"{format_count(len(plan.options), 'option')}: {order}."
    return Chapter("options", "Options side by side", lead, (*_present_figures(picture), table))


def _present_figures(picture: FigureBlock | None) -> tuple[FigureBlock, ...]:
    return () if picture is None else (picture,)


def _option_row(plan: Plan, option: Option, rival: Rival | None) -> Iterable[Cell]:
    is_chosen = option.name == plan.chosen
    models = format_list(sorted(set(option.models.values())), most=3)
    yield Cell(option.name, build_notes(("", describe_placement(option)), ("", models)), "strong" if is_chosen else "")
    for amount in (option.total_cost, option.cost_per_month, option.capex):
        yield _amount_cell(amount)
    pareto = "on the Pareto front" if option.name in plan.decision.pareto else ""
    cheaper = ""
    if rival is not None and not is_chosen:
        cheaper = f"cheaper than the chosen one with probability {format_percent(rival.cheaper)}"
        cheaper = (
            "costs the same as the chosen one"
            if rival.equal
            else cheaper + (f": {rival.closeness}" if rival.tie else "")
        )
    if is_chosen:
        yield Cell("chosen", build_notes(("", pareto)), "good")
    elif option.feasible:
        yield Cell("feasible", build_notes(("", pareto), ("", cheaper)))
    else:
        yield Cell("not feasible", build_notes(*(("", describe_miss(miss)) for miss in option.misses)), "bad")


def _amount_cell(amount: Estimate | None) -> Cell:
    if amount is None:
        return Cell("no price", tone="quiet")
    return Cell(format_money(amount.value), build_notes(("", format_compact_band(amount))))


def risk_chapter(plan: Plan, option: Option | None) -> Chapter:
    """What could make the plan wrong, strongest first; what it leaves out."""
    blocks: list[Block] = [*_present_figures(charts.draw_sensitivity(plan.decision.drivers))]
    if plan.decision.drivers:
        columns = (
            Column("Fact", 2.2),
            Column("Taken as", 2),
            Column("Of the variance", 1, numeric=True),
            Column("The choice flips", 2.6),
        )
        body = build_rows(
            (
                Cell(d.name, build_notes(("", d.basis))),
                format_with_band(d.estimate),
                format_percent(d.share) if d.share else Cell("rivals only", tone="quiet"),
                _switch_point_cell(d),
            )
            for d in plan.decision.drivers
        )
        blocks.append(TableBlock("The facts that move the cost most", columns, body))
    confidence = sorted(plan.decision.confidence.items(), key=lambda pair: -pair[1])
    shares = (
        Item(name, f"{format_percent(share)} of the total rests on facts of this confidence")
        for name, share in confidence
    )
    blocks += _items_block("Confidence of the facts", shares)
    blocks += _limits_at_risk(option)
    blocks += _items_block("Not sized", (Item(text) for text in plan.not_sized))
    blocks += _items_block("Stale facts, their bands widened", (Item(text) for text in plan.stale_facts))
    lead = "Facts carry bands; a choice is only as firm as the fact that could overturn it."
    return Chapter("risk", "Risk", lead, tuple(blocks))


def _switch_point_cell(driver: CostDriver) -> Cell:
    if driver.flips_to is None or driver.flips_at is None:
        return Cell("nowhere in reach", tone="quiet")
    inside = CellNote("", "inside its band" if driver.inside else "outside its band")
    at = f"at {format_measure(driver.flips_at, driver.estimate.unit)}"
    limit = build_notes(("", f"at the budget's {driver.limit.replace('_', ' ')} limit" if driver.limit else ""))
    return Cell(at, (CellNote("to", driver.flips_to), *limit, inside), "warn" if driver.inside else "")
