"""How a plan reads in a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from archwright.cli.number_format import format_band, format_money, format_quantity, format_significant
from archwright.cli.show import as_json, make_console
from archwright.cli.show_diff import print_what_if
from archwright.cli.table_layout import make_titled_table, print_indented
from archwright.contract.decision import CostDriver, ReturnOnInvestment
from archwright.contract.plan import ConstraintViolation, Option, Plan

__all__ = ["as_json", "print_plan"]

SHOWN_FACTS = 3
SMALLEST_SHARE = 0.005
SHOWN_CATEGORIES = 5
# People are in the total and not in what is spent month by month.
MONTHLY_COLUMN = "a month\nwithout staff"


def print_plan(result: Any) -> int:
    """The decision in a sentence, the options with their money, what could change it, parts, promises, gaps. A "what
    if" is told as the change it makes.
    """
    return _print_full_plan(result) if isinstance(result, Plan) else print_what_if(result)


def _print_full_plan(result: Plan) -> int:
    out = make_console()
    out.print(
        f"\n[bold]Plan for {escape(result.organisation)}[/]   {escape(result.needs_file)}   plan {result.digest[:12]}"
    )
    _print_machine(out, result)
    out.print()
    headline, *rest = _describe_decision(result)
    out.print(headline)
    for sentence in rest:
        print_indented(out, sentence)
    out.print()
    _print_options(out, result)
    _print_drivers(out, result)
    _print_sections(out, result)
    if result.predictions:
        out.print(_make_predictions_table(result))
    for line in result.stale_facts[:SHOWN_FACTS]:
        print_indented(out, f"[yellow]stale:[/] {escape(line)}")
    if len(result.stale_facts) > SHOWN_FACTS:
        print_indented(out, f"[yellow]and {len(result.stale_facts) - SHOWN_FACTS} more stale facts[/]")
    for line in result.not_sized:
        print_indented(out, f"[dim]not sized yet: {escape(line)}[/]")
    out.print(
        f"  {len(result.assumptions)} assumptions, {len(result.controls)} controls, and why each number is as it is: "
        "archwright explain plan.json [NAME]\n"
    )
    return 0


def _print_machine(out: Console, result: Plan) -> None:
    if result.machine is None:
        return
    machine = result.machine
    out.print(
        f"[dim]this machine: {machine.cores_usable} cores ({machine.isa}), "
        f"{format_quantity(machine.memory_bytes, 'bytes')} memory, "
        f"{format_quantity(machine.memory_bandwidth_bytes_per_s.value, 'B/s')} read, "
        f"{format_quantity(machine.matmul_flops_per_s.value, 'FLOP/s')} matrix product, "
        f"{format_quantity(machine.disk_free_bytes, 'bytes')} free, GPU: {escape(', '.join(machine.gpus) or 'none')}[/]"
    )


# --- the decision


def _describe_decision(result: Plan) -> Iterable[str]:
    """What to do, what it costs, how sure that is, what it earns: one line each."""
    feasible = sum(option.feasible for option in result.options)
    looked = f"{feasible} of {len(result.options)} options feasible"
    option = result.chosen_option
    if option is None:
        yield f"[bold yellow]No option satisfies the needs[/] ({len(result.options)} looked at)"
        return
    yield f"[bold green]Choose {escape(option.name)}[/]{_describe_place(option)} ({looked})"
    if option.total_cost is not None:
        yield _describe_cost(result, option)
        yield _describe_categories(result, option)
    if result.decision.returns is not None:
        yield _describe_return(result.decision.returns)
    for note in option.notes:
        yield f"[dim]{escape(note)}[/]"


def _describe_place(option: Option) -> str:
    models = sorted(set(option.models.values()))
    where = f" in {', '.join(option.regions)}" if option.regions else ""
    return escape(where + (f" with {', '.join(models)}" if models else ""))


def _describe_cost(result: Plan, option: Option) -> str:
    total, month, capex = option.total_cost, option.cost_per_month, option.capex
    assert total is not None and month is not None and capex is not None
    bought = f", {format_money(capex.value)} to buy" if capex.value else ", nothing to buy"
    return (
        f"[bold]{format_money(total.value)} {result.currency}[/] over {result.horizon_label} "
        f"(90 %: {format_money(total.low)} to {format_money(total.high)}); "
        f"{format_money(month.value)} a month without staff{bought}"
    )


def _describe_categories(result: Plan, option: Option) -> str:
    """What the total pays for, the most first; what comes back is taken off."""
    spent = option.cost_by_category(result.horizon_months)
    largest = sorted(spent.items(), key=lambda entry: -abs(entry[1]))[:SHOWN_CATEGORIES]
    return f"of it {', '.join(f'{name} {format_money(amount)}' for name, amount in largest)}"


def _describe_return(returns: ReturnOnInvestment) -> str:
    unit = returns.cost.unit
    payback = f"paid back by month {returns.payback_month}" if returns.payback_month else "not paid back"
    return (
        f"goals worth {format_money(returns.value)} {unit}: net {format_money(returns.net.value)} "
        f"({format_money(returns.net.low)} to {format_money(returns.net.high)}), {payback}; "
        f"pays in {returns.pays:.0%} of the draws"
    )


# --- the options


def _print_options(out: Console, result: Plan) -> None:
    """What could be chosen, then what could not and why."""
    ranked = sorted(result.options, key=lambda option: _rank_option(result, option))
    feasible = [option for option in ranked if option.feasible]
    if feasible:
        _print_feasible_options(out, result, feasible)
    _print_infeasible_options(out, result, [option for option in ranked if not option.feasible])


def _rank_option(result: Plan, option: Option) -> tuple[bool, bool, float, str]:
    """The chosen one, then the cheapest first; what has no price comes last."""
    total = option.total_cost
    return option.name != result.chosen, total is None, total.value if total is not None else 0.0, option.name


def _print_feasible_options(out: Console, result: Plan, options: list[Option]) -> None:
    table = make_titled_table("Options")
    for name in ("", "option"):
        table.add_column(name, overflow="fold")
    for name in (f"{result.currency} in {result.horizon_label}", "90 % band", "to buy", MONTHLY_COLUMN, "cheaper"):
        table.add_column(name, justify="right", no_wrap=True)
    for option in options:
        total, month, capex = option.total_cost, option.cost_per_month, option.capex
        table.add_row(
            _format_mark(result, option),
            escape(option.name),
            format_money(total.value) if total else "-",
            f"{format_money(total.low)} to {format_money(total.high)}" if total else "-",
            (format_money(capex.value) if capex.value else "-") if capex else "-",
            format_money(month.value) if month else "-",
            _format_chance(result, option),
        )
    out.print(table)
    if len(result.decision.pareto) > 1:
        axes = ", ".join(axis.replace("_", " ") for axis in result.decision.axes)
        print_indented(out, f"[dim]* no other option is as good in each of: {escape(axes)}[/]")
    if result.decision.rivals:
        print_indented(out, "[dim]cheaper: in which share of the draws it costs less than the chosen one[/]")


def _format_mark(result: Plan, option: Option) -> str:
    best = "*" if option.name in result.decision.pareto else " "
    return f"[green]>[/]{best}" if option.name == result.chosen else f" {best}"


def _format_chance(result: Plan, option: Option) -> str:
    if option.name == result.chosen:
        return "[green]chosen[/]"
    rival = next((rival for rival in result.decision.rivals if rival.option == option.name), None)
    if rival is None:
        return "-"
    if rival.equal:
        return f"[cyan]{rival.closeness}[/]"
    return f"[cyan]{rival.closeness}, {rival.cheaper:.0%}[/]" if rival.tie else f"{rival.cheaper:.0%}"


def _print_infeasible_options(out: Console, result: Plan, options: list[Option]) -> None:
    if not options:
        return
    table = make_titled_table("Not feasible")
    table.add_column("option", overflow="fold")
    for name in (f"{result.currency} in {result.horizon_label}", MONTHLY_COLUMN):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("because", overflow="fold", style="yellow")
    for option in options:
        total, month = option.total_cost, option.cost_per_month
        table.add_row(
            escape(option.name),
            format_money(total.value) if total else "-",
            format_money(month.value) if month else "-",
            escape("; ".join(map(_format_miss, option.misses))),
        )
    out.print()
    out.print(table)


def _format_miss(miss: ConstraintViolation) -> str:
    """`per_month 4,752 > 3,500`, `residency unknown`; of a law its sentence."""
    name = "" if miss.constraint == "export" else miss.constraint.replace(".", " ")
    if isinstance(miss.value, float | int) and isinstance(miss.limit, float | int):
        sign = ">" if miss.value > miss.limit else "<"
        best = "at best " if miss.at_best else ""
        return f"{name} {best}{format_significant(miss.value)} {sign} {format_significant(miss.limit)}"
    return f"{name} {miss.value if miss.value is not None else 'none'}".strip()


# --- what it rests on


def _print_drivers(out: Console, result: Plan) -> None:
    """The facts to check before signing: those that flip the choice, then those that move the cost most."""
    drivers = result.decision.drivers
    if not drivers:
        return
    shown = sorted(drivers, key=lambda driver: driver.flips_at is None)[:SHOWN_FACTS]
    inside = any(driver.inside for driver in shown)
    out.print(f"\n[bold]{'Facts to check before signing' if inside else 'Facts that matter most'}[/]")
    for number, driver in enumerate(shown, 1):
        estimate = driver.estimate
        share = f"; {driver.share:.0%} of the error of the total" if driver.share >= SMALLEST_SHARE else ""
        print_indented(
            out,
            f"{number}. {escape(driver.name)}: {_format_four_digits(estimate.value)} {escape(estimate.unit)} "
            f"({_format_four_digits(estimate.low)} to {_format_four_digits(estimate.high)}){share}",
        )
        print_indented(out, f"{_format_switch_point(driver)}  [dim]{escape(driver.basis)}[/]", 5)
    if result.decision.confidence:
        known = result.decision.confidence.items()
        shares = ", ".join(f"{share:.0%} {escape(name)}" for name, share in known if share >= SMALLEST_SHARE)
        print_indented(out, f"[dim]the total rests on facts of confidence: {shares}[/]")


def _format_four_digits(value: float) -> str:
    """Four digits: a flip may lie close to what is believed."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _format_switch_point(driver: CostDriver) -> str:
    if driver.flips_at is None:
        return "no value in reach changes the choice"
    place = "[yellow]inside the band[/]" if driver.inside else "outside the band"
    return f"at {_format_four_digits(driver.flips_at)} {escape(driver.consequence)}: {place}"


def _print_sections(out: Console, result: Plan) -> None:
    if not result.sections:
        return
    table = make_titled_table("Parts")
    table.show_header = False
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for section in result.sections:
        table.add_row(section.id, escape(section.summary))
    out.print()
    out.print(table)


def _make_predictions_table(result: Plan) -> Table:
    table = make_titled_table("\nPromises")
    for name in ("prediction", "value", "90 % band", "basis"):
        right = name in ("value", "90 % band")
        table.add_column(name, justify="right" if right else "left", no_wrap=name != "basis")
    for promise in result.predictions:
        estimate = promise.estimate
        basis = result.basis(estimate.basis)
        table.add_row(
            promise.id,
            format_quantity(estimate.value, estimate.unit),
            format_band(estimate),
            f"{basis.kind}: {basis.stratum}",
        )
    return table
