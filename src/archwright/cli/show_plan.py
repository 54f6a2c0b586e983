"""The terminal output of a plan."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape

from archwright.api.planning import list_missed_limits
from archwright.cli.show import (
    PREDICTION_COLUMNS,
    as_json,
    format_proposal,
    make_console,
    print_missed_limits,
    print_probe_load,
)
from archwright.cli.show_diff import print_what_if
from archwright.cli.table_layout import TableColumn, make_table, print_indented
from archwright.contract.decision import BindingLimit, CostDriver, ReturnOnInvestment
from archwright.contract.estimate import Estimate
from archwright.contract.number_format import (
    format_apart,
    format_estimate,
    format_money,
    format_money_interval,
    format_number,
    format_quantity,
    format_share,
)
from archwright.contract.plan import PART_TIME_FTE, ConstraintViolation, MachineFacts, Option, Plan, Purchase

__all__ = ["as_json", "print_plan"]

SHOWN_FACTS = 3
SHOWN_LIMITS = 3
SMALLEST_SHARE = 0.005
SHOWN_CATEGORIES = 5
SHOWN_NOTES = 14
# Categories below this share of the total are left out of the first lines.
SHOWN_SHARE = 0.01
# Staff is in the total and not in the monthly cost.
MONTHLY_HEADING = "a month\nwithout\nstaff"
PURCHASE_TERMS = {
    "on-demand": "rented by the hour",
    "spot": "rented as spot",
    "commit-1y": "rented for 1 year",
    "commit-3y": "rented for 3 years",
    "bought": "bought",
    "owned": "owned already",
    "per-second": "rented by the second",
}


LIMIT_COLUMNS = (
    TableColumn("limit", "limit", whole=True),
    TableColumn("stated", lambda row: f"{row.sign} {format_quantity(row.stated, row.predicted.unit)}", number=True),
    TableColumn("expected", lambda row: format_quantity(row.predicted.value, row.predicted.unit), number=True),
    TableColumn("holds with", lambda row: row.chance + ("" if row.holds else " !"), number=True),
)


def print_plan(result: Any) -> int:
    """Print the decision, its machines, the options, the facts that matter, sections, predictions and gaps."""
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
    _print_model_choices(out, result)
    if result.chosen_option is not None:
        out.print()
        _print_notes(out, result.chosen_option)
    _print_engine_options(out, result)
    _print_drivers(out, result)
    if result.sections:
        out.print()
        out.print(make_table((TableColumn("", "id", whole=True), TableColumn("", "summary")), result.sections, "Parts"))
    if result.predictions:
        bases = {
            basis.id: basis.kind if basis.stratum == basis.kind else f"{basis.kind}: {basis.stratum}"
            for basis in result.bases
        }
        columns = (*PREDICTION_COLUMNS, TableColumn("basis", lambda row: bases[row.estimate.basis]))
        out.print(make_table(columns, result.predictions, "\nPredictions"))
    _print_limits(out, result)
    for proposal in result.proposals:
        print_indented(out, escape(format_proposal(proposal, f"archwright plan {result.needs_file} --download")))
    for line in result.stale_facts[:SHOWN_FACTS]:
        print_indented(out, f"[yellow]stale:[/] {escape(line)}")
    if len(result.stale_facts) > SHOWN_FACTS:
        print_indented(out, f"[yellow]and {len(result.stale_facts) - SHOWN_FACTS} more stale facts[/]")
    for line in result.not_sized:
        print_indented(out, f"[dim]not sized yet: {escape(line)}[/]")
    counts = f"{len(result.assumptions)} assumptions, {len(result.controls)} controls"
    out.print(f"  {counts}; the reasons for each number: archwright explain plan.json [NAME]\n")
    return 0


def _print_limits(out: Console, result: Plan) -> None:
    """Print each limit with its probability, and the pilot runs that narrow the predictions behind them."""
    if result.chosen_option is not None and result.chosen_option.limits:
        out.print(make_table(LIMIT_COLUMNS, result.chosen_option.limits, "\nLimits (!: less certain than required)"))
    for pilot in result.decision.pilots:
        print_indented(out, escape(f"pilot for {pilot.workload}: {pilot.summary}"))
        print_indented(out, f"  [dim]{escape(pilot.command)}[/]")


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
    """Print what to choose, its machines, its cost with the uncertainty, and its return."""
    option = result.chosen_option
    if option is None:
        out.print(f"[bold yellow]No option satisfies the needs[/] ({len(result.options)} options evaluated)")
        return
    feasible = sum(option.feasible for option in result.options)
    models = sorted(set(option.models.values()))
    where = f" in {', '.join(option.regions)}" if option.regions else ""
    place = escape(where + (f" with {', '.join(models)}" if models else ""))
    verb = "[bold green]Choose" if option.feasible else "[bold yellow]Nearest option:"
    out.print(f"{verb} {escape(option.name)}[/]{place} ({feasible} of {len(result.options)} options feasible)")
    if option.total_cost is not None:
        print_indented(out, _describe_cost(result, option))
        # The largest categories of the total first; income, such as a residual value, is negative.
        spent = option.cost_by_category(result.horizon_months)
        shown = [entry for entry in spent.items() if abs(entry[1]) >= SHOWN_SHARE * abs(option.total_cost.value)]
        largest = sorted(shown, key=lambda entry: -abs(entry[1]))[:SHOWN_CATEGORIES]
        print_indented(out, f"of it {', '.join(f'{name} {format_money(amount)}' for name, amount in largest)}")
        _print_staff(out, result, option)
        _print_binding_limits(out, result)
    if result.decision.returns is not None:
        print_indented(out, _describe_return(result.decision.returns))
    _print_machines(out, option)
    if missed := list_missed_limits(result):
        print_missed_limits(out, missed)
        if result.machine is not None and option.placement == "this-machine":
            print_probe_load(out, result.machine.busy_share)


def _print_notes(out: Console, option: Option) -> None:
    """Print the first notes on the option; `explain` prints all."""
    for note in option.notes[:SHOWN_NOTES]:
        print_indented(out, f"[dim]{escape(note)}[/]")
    if (rest := len(option.notes) - SHOWN_NOTES) > 0:
        print_indented(out, f"[dim]and {rest} more notes: archwright explain plan.json {escape(option.name)}[/]")


def _print_engine_options(out: Console, result: Plan) -> None:
    """Print the chosen options of the engines with reason and effect."""
    for pool in result.pools:
        for effect in pool.effects:
            print_indented(out, escape(f"engine of {pool.name}: {effect.summary}; {effect.reason}"))


def _print_staff(out: Console, result: Plan, option: Option) -> None:
    """Print the staff: time of the team, and people beyond it."""
    if not option.staff:
        return
    hours = sum(need.hours for need in option.staff)
    team, hired = (sum(getattr(need, name) for need in option.staff) for name in ("team", "hired"))
    bare = option.cost_without_staff
    paid = f"; without it {format_money(bare.value, result.currency)}" if bare is not None and hired else ""
    if team + hired < PART_TIME_FTE:
        scale = hours / (team + hired)
        whole = f"staff: {format_number(hours)} hours a month, {format_number(team * scale)} of them from the team"
        print_indented(out, f"{whole}, {format_number(hired * scale)} beyond it{paid}")
        return
    whole = f"staff: {format_number(team + hired)} FTE ({format_number(hours)} hours a month)"
    parts = f"{format_number(team)} of them from the team, {format_number(hired)} beyond it"
    print_indented(out, f"{whole}, {parts}{paid}")


def _print_binding_limits(out: Console, result: Plan) -> None:
    """Print the limits that cost most, and to what value each must be relaxed."""
    binding = result.decision.binding[:SHOWN_LIMITS]
    if not binding:
        print_indented(out, "[dim]binding limits: none of the limits that were relaxed costs a noticeable amount[/]")
    for limit in binding:
        print_indented(out, f"[yellow]binding limit:[/] {escape(_describe_limit(result, limit))}")
    if len(result.decision.binding) > SHOWN_LIMITS:
        print_indented(out, f"[dim]and {len(result.decision.binding) - SHOWN_LIMITS} more: archwright explain[/]")


def _describe_limit(result: Plan, limit: BindingLimit) -> str:
    other = f", compared with {limit.option}" if limit.option != result.chosen else ""
    return f"{limit.change} costs {format_money(limit.saves, result.currency)} over the horizon{other}"


# --- the machines


class MachineRow(NamedTuple):
    """Machines of one type on the same terms: the most at any time and the mean over the horizon."""

    peak: int | None
    mean: float | None
    machine: str
    accelerators: str
    place: str
    terms: str
    workloads: str


def _format_mean(row: MachineRow) -> str | None:
    return None if row.mean is None else format_number(row.mean)


MACHINE_COLUMNS = (
    TableColumn("most", "peak", number=True),
    TableColumn("mean", _format_mean, number=True),
    TableColumn("machine", "machine", whole=True),
    TableColumn("in use", "accelerators", whole=True),
    TableColumn("where", "place"),
    TableColumn("terms", "terms"),
    TableColumn("for", "workloads"),
)


def _print_machines(out: Console, option: Option) -> None:
    """Print which machines to have: how many, where, rented or bought, and for what."""
    rows = [*_list_purchased(option), *_list_local(option), *_list_hosted(option)]
    hosts = [line.name for line in option.cost_lines if line.category == "platform" and line.name.startswith("host of")]
    if rows:
        out.print()
        out.print(make_table(MACHINE_COLUMNS, rows, "Machines"))
        print_indented(out, "[dim]most: at any time; mean: over the horizon; in use: accelerators at the peak[/]")
    for host in hosts:
        print_indented(out, f"[dim]{escape(host)}[/]")
    if rows or hosts:
        out.print()


def _list_purchased(option: Option) -> Iterator[MachineRow]:
    """One row for each purchase; pools that share machines are one row.

    The accelerators are those that the engines of these pools use at the peak.
    """
    purchases: dict[tuple[str, str, tuple[str, ...]], Purchase] = {}
    for bought in option.purchases:
        sharing = tuple(sorted({bought.pool, *bought.shared_with}))
        purchases.setdefault((bought.machine, bought.kind, sharing), bought)
    for (machine, kind, names), bought in purchases.items():
        pools = [pool for pool in option.pools if pool.name in names and pool.machine == machine]
        used = sum(pool.replicas * pool.accelerator_count for pool in pools)
        machines = sum(one.peak for (name, _, same), one in purchases.items() if (name, same) == (machine, names))
        count = math.ceil(used * bought.peak / max(machines, 1))
        yield MachineRow(
            peak=bought.peak,
            mean=bought.machines,
            machine=machine,
            accelerators=f"{count} x {pools[0].accelerator}" if count else "",
            place=", ".join(dict.fromkeys(pool.region for pool in pools)) or ", ".join(option.regions),
            terms=PURCHASE_TERMS[kind],
            workloads=", ".join(names),
        )


def _list_local(option: Option) -> Iterator[MachineRow]:
    if option.placement == "this-machine" and option.pools:
        workloads = ", ".join(dict.fromkeys(name for pool in option.pools for name in pool.workloads))
        pool = option.pools[0]
        yield MachineRow(1, 1.0, pool.machine, "", pool.region, "this machine", workloads)


def _list_hosted(option: Option) -> Iterator[MachineRow]:
    for line in option.cost_lines:
        if line.category == "tokens":
            workload = line.name.partition(":")[0]
            model = option.models.get(workload, "")
            yield MachineRow(None, None, model, "", option.provider, "bought by the token", workload)


# --- the money


def _describe_cost(result: Plan, option: Option) -> str:
    total, month, capex = option.total_cost, option.cost_per_month, option.capex
    assert total is not None and month is not None and capex is not None
    bought = f", {format_money(capex.value)} to buy" if capex.value else ", nothing to buy"
    return (
        f"[bold]{format_money(total.value, result.currency)}[/] over {result.horizon_label} "
        f"(90 %: {format_money_interval(total) or 'exact'}); "
        f"{format_money(month.value)} a month without staff{bought}"
    )


def _describe_return(returns: ReturnOnInvestment) -> str:
    unit = returns.cost.unit
    payback = f"paid back by month {returns.payback_month}" if returns.payback_month else "not paid back"
    return (
        f"goals worth {format_money(returns.value, unit)}: net {format_estimate(returns.net)}, {payback}; "
        f"pays in {format_share(returns.pays)} of the samples"
    )


# --- the options


def _rank_option(result: Plan, option: Option) -> tuple[bool, bool, float, str]:
    total = option.total_cost
    return option.name != result.chosen, total is None, total.value if total is not None else 0.0, option.name


def _print_feasible_options(out: Console, result: Plan, options: list[Option]) -> None:
    if not options:
        return
    pareto, decision = set(result.decision.pareto), result.decision

    def mark(row: Option) -> str:
        return f"{'>' if row.name == result.chosen else ' '}{'*' if row.name in pareto else ' '}"

    def colour(row: Option) -> str:
        return "green" if row.name == result.chosen else ""

    name, total, bare, month = _list_cost_columns(result)
    columns = (
        TableColumn("", mark, whole=True, style=colour),
        name,
        total,
        bare,
        TableColumn("90 % interval", _format_total_band, number=True, whole=False),
        TableColumn("to buy", lambda row: _format_cost(row.capex) if row.capex and row.capex.value else None, True),
        month,
        TableColumn("cheaper", lambda row: _format_chance(result, row), True, False, colour),
    )
    out.print(make_table(columns, options, "Options"))
    if len(pareto) > 1:
        axes = ", ".join(axis.replace("_", " ") for axis in decision.axes)
        print_indented(out, f"[dim]* no other option is as good in each of: {escape(axes)}[/]")
    if decision.rivals:
        print_indented(out, "[dim]cheaper: in which share of the samples it costs less than the chosen option[/]")


def _list_cost_columns(result: Plan) -> tuple[TableColumn, ...]:
    """Make the columns of an option's name, its cost over the horizon with and without staff, and per month."""
    return (
        TableColumn("option", "name", whole=True),
        TableColumn(f"{result.currency} in\n{result.horizon_label}", lambda row: _format_cost(row.total_cost), True),
        TableColumn("without\nstaff", lambda row: _format_cost(row.cost_without_staff), True),
        TableColumn(MONTHLY_HEADING, lambda row: _format_cost(row.cost_per_month), True),
    )


def _format_cost(cost: Estimate | None) -> str | None:
    return format_money(cost.value) if cost else None


def _format_total_band(option: Option) -> str | None:
    total = option.total_cost
    return format_money_interval(total) or "exact" if total else None


def _format_chance(result: Plan, option: Option) -> str | None:
    if option.name == result.chosen:
        return "chosen"
    rival = next((rival for rival in result.decision.rivals if rival.option == option.name), None)
    if rival is None or rival.equal:
        return rival.closeness if rival else None
    return f"{rival.closeness}, {format_share(rival.cheaper)}" if rival.tie else format_share(rival.cheaper)


def _print_infeasible_options(out: Console, result: Plan, options: list[Option]) -> None:
    if not options:
        return
    because = TableColumn("because", lambda row: "; ".join(map(_format_miss, row.misses)), style="yellow")
    out.print()
    out.print(make_table((*_list_cost_columns(result), because), options, "Not feasible"))


def _print_model_choices(out: Console, result: Plan) -> None:
    """Print the three choices of models with what each gives up, and the scores of the chosen models."""
    choices = [one for one, repeated in result.decision.list_choices() if not repeated]
    if not choices:
        return
    columns = (
        TableColumn("choice", "label", whole=True),
        TableColumn("option", "option", whole=True),
        TableColumn("quality", lambda row: ", ".join(format_number(share) for share in row.quality.values()), True),
        TableColumn(
            f"{result.currency} in\n{result.horizon_label}", lambda row: format_money(row.total_cost.value), True
        ),
        TableColumn("for", lambda row: ", ".join(f"{name}: {row.models[name]}" for name in row.quality)),
    )
    out.print()
    out.print(make_table(columns, choices, "Choices of models"))
    last = choices[0].label
    for choice, repeated in result.decision.list_choices():
        if repeated:
            print_indented(out, f"{choice.label}: the same plan as {last}")
        last = last if repeated else choice.label
    for choice in choices:
        for line in choice.gives_up:
            print_indented(out, f"[dim]{choice.label}: {escape(line)}[/]")
        if changes := choice.list_changes(choices[0]):
            what = " ".join(f"--what-if {change}" for change in changes)
            print_indented(out, f"{choice.label}: archwright plan {result.needs_file} {escape(what)}")
    for planned in result.workloads:
        if planned.evidence:
            known = "; ".join(score.summary for score in planned.evidence)
            print_indented(out, f"{planned.name}: {escape(f'{planned.model}: {known}')}")


def _format_miss(miss: ConstraintViolation) -> str:
    """`per_month 4,752 > 3,500`, `residency unknown`; for an export rule or a hybrid option its sentence."""
    name = "" if miss.constraint in ("export", "hybrid") else miss.constraint.replace(".", " ")
    if isinstance(miss.value, float | int) and isinstance(miss.limit, float | int):
        sign = ">" if miss.value > miss.limit else "<"
        best = "at best " if miss.at_best else ""
        value = format_apart(miss.value, miss.limit)
        return f"{name} {best}{value} {sign} {format_apart(miss.limit, miss.value)}"
    return f"{name} {miss.value if miss.value is not None else 'none'}".strip()


# --- the facts behind the decision


def _print_drivers(out: Console, result: Plan) -> None:
    """Print the facts to check before signing: those that change the choice, then those that move the cost most."""
    drivers = result.decision.drivers
    if not drivers:
        return
    shown = sorted(drivers, key=lambda driver: driver.flips_at is None)[:SHOWN_FACTS]
    inside = any(driver.inside for driver in shown)
    out.print(f"\n[bold]{'Facts to check before signing' if inside else 'Facts that matter most'}[/]")
    for number, driver in enumerate(shown, 1):
        share = ""
        if driver.share >= SMALLEST_SHARE:
            share = f"; {format_share(driver.share)} of the error of the total"
        print_indented(out, escape(f"{number}. {driver.name}: {format_estimate(driver.estimate)}{share}"))
        print_indented(out, f"{_format_switch_point(driver)}  [dim]{escape(driver.basis)}[/]", 5)
    if result.decision.confidence:
        known = result.decision.confidence.items()
        shares = ", ".join(f"{format_share(share)} {escape(name)}" for name, share in known if share >= SMALLEST_SHARE)
        print_indented(out, f"[dim]confidence of the facts behind the total: {shares}[/]")


def _format_switch_point(driver: CostDriver) -> str:
    if driver.flips_at is None:
        return "no value within a factor of ten changes the choice"
    place = "[yellow]inside the interval[/]" if driver.inside else "outside the interval"
    at = format_apart(driver.flips_at, driver.estimate.value, driver.estimate.unit)
    return f"at {escape(at)} {escape(driver.consequence)}: {place}"
