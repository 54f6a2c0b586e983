"""The terminal output of a plan: the board's view, and what concerns this machine and the plan file."""

from typing import Any

from rich.console import Console
from rich.markup import escape

from archwright.api.planning import list_missed_limits
from archwright.api.report_document import view_board
from archwright.cli.show import as_json, format_proposal, make_console, print_missed_limits, print_probe_load
from archwright.cli.show_diff import print_what_if
from archwright.cli.table_layout import print_indented
from archwright.contract.number_format import format_count, format_quantity
from archwright.contract.plan import MachineFacts, Plan

__all__ = ["as_json", "print_plan"]

SHOWN_FACTS = 3


def print_plan(result: Any) -> int:
    """Print the board's view of a plan, the limits that it may miss, models to download, stale facts and gaps."""
    if not isinstance(result, Plan):
        return print_what_if(result)
    out = make_console()
    source = f"{escape(result.needs_file)}   plan {result.digest[:12]}"
    out.print(f"\n[bold]Plan for {escape(result.organisation)}[/]   {source}")
    if result.machine is not None:
        _print_machine(out, result.machine)

    out.print(view_board(result))

    _print_missed_limits(out, result)
    out.print()
    for proposal in result.proposals:
        command = f"archwright plan {result.needs_file} --download"
        print_indented(out, escape(format_proposal(proposal, command)))
    _print_stale_facts(out, result)
    for gap in result.not_sized:
        print_indented(out, f"[dim]not sized yet: {escape(gap)}[/]")
    counts = f"{format_count(len(result.assumptions), 'assumption')}, {format_count(len(result.controls), 'control')}"
    out.print(f"  {counts}; sizing, predictions and the reasons for each number: archwright explain plan.json [NAME]\n")
    return 0


def _print_machine(out: Console, machine: MachineFacts) -> None:
    facts = [
        f"{machine.cores_usable} cores ({machine.isa})",
        f"{format_quantity(machine.memory_bytes, 'bytes')} memory",
        f"{format_quantity(machine.memory_bandwidth_bytes_per_s.value, 'B/s')} read",
        f"{format_quantity(machine.matmul_flops_per_s.value, 'FLOP/s')} matrix product",
        f"{format_quantity(machine.disk_free_bytes, 'bytes')} free",
        f"GPU: {', '.join(machine.gpus) or 'none'}",
    ]
    out.print(f"[dim]this machine: {escape(', '.join(facts))}[/]")


def _print_missed_limits(out: Console, plan: Plan) -> None:
    """Print the limits that the chosen option may miss, and the load of this machine when it was probed."""
    missed = list_missed_limits(plan)
    if not missed:
        return
    print_missed_limits(out, missed)
    option = plan.chosen_option
    is_here = option is not None and option.placement == "this-machine"
    if is_here and plan.machine is not None:
        print_probe_load(out, plan.machine.busy_share)


def _print_stale_facts(out: Console, plan: Plan) -> None:
    for fact in plan.stale_facts[:SHOWN_FACTS]:
        print_indented(out, f"[yellow]stale:[/] {escape(fact)}")
    hidden = len(plan.stale_facts) - SHOWN_FACTS
    if hidden > 0:
        print_indented(out, f"[yellow]and {format_count(hidden, 'more stale fact')}[/]")
