"""How a plan reads in a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from archwright.cli.number_format import format_band, format_money, format_quantity, format_significant
from archwright.cli.show import as_json, make_console
from archwright.cli.show_diff import print_what_if
from archwright.cli.table_layout import make_titled_table, print_indented
from archwright.contract.decision import CostDriver, ReturnOnInvestment
from archwright.contract.estimate import Estimate
from archwright.contract.plan import ConstraintViolation, MachineFacts, Option, Plan

__all__ = ["as_json", "print_plan"]

SHOWN_FACTS = 3
SMALLEST_SHARE = 0.005
SHOWN_CATEGORIES = 5
# People are in the total and not in what is spent month by month.
MONTHLY_COLUMN = "a month\nwithout staff"


def print_plan(result: Any) -> int:
    """The decision, the options with their money, what could change it, parts, promises, gaps; or a "what if"."""
    if not isinstance(result, Plan):
        return print_what_if(result)
    out = make_console()
    source = f"{escape(result.needs_file)}   plan {result.digest[:12]}"
    out.print(f"\n[bold]Plan for {escape(result.organisation)}[/]   {source}")
    if result.machine is not None:
        _print_machine(out, result.machine)
    out.print()
    _print_decision(out, result)
    out.print()
    ranked = sorted(result.options, key=lambda option: _rank_option(result, option))
    _print_feasible_options(out, result, [option for option in ranked if option.feasible])
    _print_infeasible_options(out, result, [option for option in ranked if not option.feasible])
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
    counts = f"{len(result.assumptions)} assumptions, {len(result.controls)} controls"
    out.print(f"  {counts}, and why each number is as it is: archwright explain plan.json [NAME]\n")
    return 0


def _print_machine(out: Console, machine: MachineFacts) -> None:
    out.print(
        f"[dim]this machine: {machine.cores_usable} cores ({machine.isa}), "
        f"{format_quantity(machine.memory_bytes, 'bytes')} memory, "
        f"{format_quantity(machine.memory_bandwidth_bytes_per_s.value, 'B/s')} read, "
        f"{format_quantity(machine.matmul_flops_per_s.value, 'FLOP/s')} matrix product, "
        f"{format_quantity(machine.disk_free_bytes, 'bytes')} free, GPU: {escape(', '.join(machine.gpus) or 'none')}[/]"
    )


# --- the decision


def _print_decision(out: Console, result: Plan) -> None:
    """What to do, what it costs, how sure that is, what it earns: one line each."""
    option = result.chosen_option
    if option is None:
        out.print(f"[bold yellow]No option satisfies the needs[/] ({len(result.options)} looked at)")
        return
    feasible = sum(option.feasible for option in result.options)
    models = sorted(set(option.models.values()))
    where = f" in {', '.join(option.regions)}" if option.regions else ""
    place = escape(where + (f" with {', '.join(models)}" if models else ""))
    looked = f"{feasible} of {len(result.options)} options feasible"
    out.print(f"[bold green]Choose {escape(option.name)}[/]{place} ({looked})")
    if option.total_cost is not None:
        print_indented(out, _describe_cost(result, option))
        # What the total pays for, the most first; what comes back is taken off.
        spent = option.cost_by_category(result.horizon_months)
        largest = sorted(spent.items(), key=lambda entry: -abs(entry[1]))[:SHOWN_CATEGORIES]
        print_indented(out, f"of it {', '.join(f'{name} {format_money(amount)}' for name, amount in largest)}")
    if result.decision.returns is not None:
        print_indented(out, _describe_return(result.decision.returns))
    for note in option.notes:
        print_indented(out, f"[dim]{escape(note)}[/]")


def _describe_cost(result: Plan, option: Option) -> str:
    total, month, capex = option.total_cost, option.cost_per_month, option.capex
    assert total is not None and month is not None and capex is not None
    bought = f", {format_money(capex.value)} to buy" if capex.value else ", nothing to buy"
    return (
        f"[bold]{format_money(total.value)} {result.currency}[/] over {result.horizon_label} "
        f"(90 %: {format_money(total.low)} to {format_money(total.high)}); "
        f"{format_money(month.value)} a month without staff{bought}"
    )


def _describe_return(returns: ReturnOnInvestment) -> str:
    unit = returns.cost.unit
    payback = f"paid back by month {returns.payback_month}" if returns.payback_month else "not paid back"
    return (
        f"goals worth {format_money(returns.value)} {unit}: net {format_money(returns.net.value)} "
        f"({format_money(returns.net.low)} to {format_money(returns.net.high)}), {payback}; "
        f"pays in {returns.pays:.0%} of the draws"
    )


# --- the options


def _rank_option(result: Plan, option: Option) -> tuple[bool, bool, float, str]:
    """The chosen one, then the cheapest first; what has no price comes last."""
    total = option.total_cost
    return option.name != result.chosen, total is None, total.value if total is not None else 0.0, option.name


def _print_feasible_options(out: Console, result: Plan, options: list[Option]) -> None:
    if not options:
        return
    total_column = f"{result.currency} in {result.horizon_label}"
    numbers = (total_column, "90 % band", "to buy", MONTHLY_COLUMN, "cheaper")
    table = make_titled_table("Options", "", "option", numbers=numbers)
    for option in options:
        total, capex = option.total_cost, option.capex
        best = "*" if option.name in result.decision.pareto else " "
        table.add_row(
            f"[green]>[/]{best}" if option.name == result.chosen else f" {best}",
            escape(option.name),
            _format_cost(total),
            f"{format_money(total.low)} to {format_money(total.high)}" if total else "-",
            _format_cost(capex) if capex and capex.value else "-",
            _format_cost(option.cost_per_month),
            _format_chance(result, option),
        )
    out.print(table)
    if len(result.decision.pareto) > 1:
        axes = ", ".join(axis.replace("_", " ") for axis in result.decision.axes)
        print_indented(out, f"[dim]* no other option is as good in each of: {escape(axes)}[/]")
    if result.decision.rivals:
        print_indented(out, "[dim]cheaper: in which share of the draws it costs less than the chosen one[/]")


def _format_cost(cost: Estimate | None) -> str:
    return format_money(cost.value) if cost else "-"


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
    numbers = (f"{result.currency} in {result.horizon_label}", MONTHLY_COLUMN)
    table = make_titled_table("Not feasible", "option", numbers=numbers)
    table.add_column("because", overflow="fold", style="yellow")
    for option in options:
        costs = (_format_cost(option.total_cost), _format_cost(option.cost_per_month))
        table.add_row(escape(option.name), *costs, escape("; ".join(map(_format_miss, option.misses))))
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
    table.add_column("prediction", no_wrap=True)
    for name in ("value", "90 % band"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("basis")
    for promise in result.predictions:
        estimate = promise.estimate
        basis = result.basis(estimate.basis)
        value = format_quantity(estimate.value, estimate.unit)
        table.add_row(promise.id, value, format_band(estimate), f"{basis.kind}: {basis.stratum}")
    return table
