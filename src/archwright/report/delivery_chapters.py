"""Roadmap with dates and owners, and the tasks of the customer: decisions, controls, facts."""

import re
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from typing import NamedTuple

from archwright.contract import number_format as fmt
from archwright.contract.decision import Phase, Schedule, Section, SectionLine
from archwright.contract.evidence import Control
from archwright.contract.plan import OWN_PLACEMENTS, Option, Plan, Purchase, StaffNeed
from archwright.report import document as doc
from archwright.report.bill import build_bill, name_price
from archwright.report.document_texts import TaskText, read_texts
from archwright.report.plan_texts import PURCHASE_LABELS

DAYS_PER_MONTH = 365.25 / 12
# An event in the life of a machine in a note: "buy 3 in month 24".
MACHINE_EVENT = re.compile(
    r"((?:buy|sell|keep|release|extend the support of|renew|replace) \d+)"
    r" in month (\d+)"
)
# A task inside the reason of a section's line.
TASK_SENTENCE = re.compile(r"To do: (.+?\.)(?=\s|$)")
# Sections of the plan file that the document leaves out: they teach, and decide nothing.
UNPRINTED_SECTIONS = frozenset({"stages", "practices", "providers"})
WEAK = ("low", "very low", "recalled")
# A data set, not a copy of one at another place.
DATA_TOPIC = re.compile(r"Data (?!.*, copy).*")
# A note on a model that no engine of archwright runs: model, product.
UPSTREAM = re.compile(r"(\S+) is planned, not started by archwright\. .*?interface: ([^:]+)")
# Lines below this share of the bill are not named one by one.
SMALL_SHARE = 0.01
# Time of a role below this share of a full-time person is not a vacancy.
SMALLEST_FTE = 0.005


def find_schedule(plan: Plan, option: Option | None) -> Schedule | None:
    if option is None:
        return None
    for schedule in plan.decision.schedules:
        if schedule.option == option.name:
            return schedule
    return None


def list_phases(plan: Plan, option: Option | None) -> tuple[Phase, ...]:
    schedule = find_schedule(plan, option)
    return schedule.phases if schedule is not None else ()


def find_pilot(plan: Plan, option: Option | None) -> Phase | None:
    for phase in list_phases(plan, option):
        if phase.name == "pilot":
            return phase
    return None


def start_date(plan: Plan) -> date | None:
    """The day of the plan, taken as the day of the signature; None if it is not a valid time."""
    try:
        return datetime.fromisoformat(plan.created_at).date()
    except ValueError:
        return None


def format_month(plan: Plan, months: float) -> str:
    """`Mar 2027`: that many months after the date of the plan."""
    start = start_date(plan)
    if start is None:
        return f"month {fmt.format_number(months, 2)}"
    day = start + timedelta(months * DAYS_PER_MONTH)
    return f"{day:%b %Y}"


def list_traits(plan: Plan, option: Option | None) -> frozenset[str]:
    """Traits of the chosen option that select the decisions to ask for."""
    if option is None:
        return frozenset({"infeasible"})

    kinds = {purchase.kind for purchase in option.purchases}
    is_hosted = option.placement == "hosted-api"
    traits = {"chosen", "hosted" if is_hosted else ""}
    if "bought" in kinds:
        traits.add("bought")
    if kinds - {"bought", "owned"} and not is_hosted:
        traits.add("rented")
    if any(kind.startswith("commit") for kind in kinds):
        traits.add("committed")
    if _list_regulations(plan):
        traits.add("regulated")
    if find_pilot(plan, option) is not None:
        traits.add("pilot")
    return frozenset(traits)


def _list_regulations(plan: Plan) -> list[str]:
    """The regulations that demand a control, each once."""
    names = dict.fromkeys(_regulation(control.demanded_by) for control in plan.controls)
    return list(filter(None, names))


def _regulation(demanded_by: str) -> str:
    """The regulation that demands a control; "" for demands of the platform and of the needs."""
    name = demanded_by.split(" ")[0]
    return "" if name.endswith(":") or " " not in demanded_by else name


def list_decisions(plan: Plan, option: Option | None) -> list[doc.Item]:
    """Decisions for the board; the people that the option needs stand before the last one."""
    values = _decision_values(plan, option)
    items: list[doc.Item] = []
    for decision in read_texts().select_decisions(list_traits(plan, option)):
        items.append(doc.Item(decision.text.format_map(values)))
    people = list(_list_people(option))
    return [*items[:-1], *people, *items[-1:]]


def _decision_values(plan: Plan, option: Option | None) -> dict[str, str]:
    """The words for the places in the texts of decisions."""
    values = {"option": "", "provider": "", "power": "the needed amount", "units": "the needed"}
    regulations = map(str.upper, _list_regulations(plan))
    values["regulations"] = fmt.format_list(regulations)
    values["pilot"] = ""
    pilot = find_pilot(plan, option)
    if pilot is not None:
        values["pilot"] = format_month(plan, pilot.ends.value)
    values["terms"] = ""
    if option is None:
        return values

    values |= {"option": option.name, "provider": option.provider}
    if option.power_kw is not None:
        values["power"] = fmt.format_quantity(option.power_kw.high, "kW")
    if option.rack_units:
        values["units"] = fmt.format_number(option.rack_units)
    committed = [bought for bought in option.purchases if bought.kind.startswith("commit")]
    values["terms"] = fmt.format_list(describe_machines(committed))
    return values


def describe_machines(purchases: Iterable[Purchase]) -> list[str]:
    """`15 x 8x-mi300x (bought)`; machines that several pools share are counted once."""
    counted_pools: set[str] = set()
    counts: dict[str, int] = {}
    for purchase in purchases:
        machine = f"{purchase.machine} ({PURCHASE_LABELS[purchase.kind]})"
        if purchase.pool not in counted_pools or not purchase.shared_with:
            counts[machine] = counts.get(machine, 0) + purchase.peak
        counted_pools.update(purchase.shared_with)
    return [f"{count} x {machine}" for machine, count in counts.items()]


def _list_people(option: Option | None) -> Iterable[doc.Item]:
    if option is None:
        return
    if option.staff:
        yield doc.Item(f"People: {_describe_staff(option.staff)}.")
        return
    amounts: list[str] = []
    for line in option.cost_lines:
        if line.category == "staff":
            amounts.append(f"{line.name}, {fmt.format_money(line.amount.value)} per month")
    if amounts:
        yield doc.Item(f"People: {'; '.join(amounts)}.")


def _describe_staff(staff: tuple[StaffNeed, ...]) -> str:
    needed: list[str] = []
    missing: list[str] = []
    for need in staff:
        needed.append(f"{need.role} {need.format_time(need.needed.value)}")
        if need.hired > SMALLEST_FTE:
            missing.append(f"{need.role} {need.format_time(need.hired)}")
    people = fmt.format_list(needed)
    if not missing:
        return f"{people}, from the present team"
    return f"{people}; to find or to hire: {fmt.format_list(missing)}"


def list_steps(plan: Plan, option: Option) -> Iterable[doc.Item]:
    """The phases of the roadmap in a line each."""
    for phase in list_phases(plan, option):
        text = _find_phase_text(phase)
        end = format_month(plan, phase.ends.value)
        latest_end = format_month(plan, phase.ends.high)
        dates = f"until {end}, {latest_end} at the latest"
        work = _describe_work(plan, phase, text.text)
        yield doc.Item(phase.name.capitalize(), f"{dates} ({text.owner}): {work}.")


def _find_phase_text(phase: Phase) -> TaskText:
    unnamed = TaskText(text="", owner="platform lead")
    return read_texts().phases.get(phase.name, unnamed)


def _describe_work(plan: Plan, phase: Phase, text: str) -> str:
    """The work of a phase; the pilot starts with the measurements that narrow the predictions."""
    works = [text]
    if phase.name == "pilot":
        for pilot in plan.decision.pilots:
            works.append(f"{pilot.workload}: {pilot.summary}, by `{pilot.command}`")
    return "; ".join(works)


def list_machine_events(option: Option) -> dict[int, list[str]]:
    """Purchases, extensions of support and sales after the start, by month, from the notes."""
    events: dict[int, list[str]] = {}
    for note in option.notes:
        machine, _, text = note.partition(": ")
        for event in text.split("; "):
            match = MACHINE_EVENT.fullmatch(event)
            if match is None:
                continue
            month = int(match[2])
            if month > 0:
                events.setdefault(month, []).append(f"{match[1]} x {machine}")
    return events


def roadmap_chapter(plan: Plan, option: Option) -> doc.Chapter:
    """Phases with their dates; purchases of later years; the end of the horizon."""
    rows = [_phase_row(plan, phase) for phase in list_phases(plan, option)]
    for month, events in sorted(list_machine_events(option).items()):
        date_text = format_month(plan, month)
        title = f"Machines, month {month}"
        rows.append((title, date_text, date_text, "", "; ".join(events), "purchasing"))
    end = format_month(plan, plan.horizon_months)
    rows.append(("End of the horizon", end, end, "", "plan again, half a year earlier", "board"))

    columns = {"Phase": 1.3, "From": 1.2, "Until": 1.2}
    columns |= {"At the latest": 1.2, "Work": 3, "Owner": 1.2}
    lead = f"Dates count from a signature in {format_month(plan, 0)}. "
    lead += "The latest date is the upper end of the 90 % band."
    table = doc.build_table("Roadmap", columns, rows)
    return doc.Chapter("roadmap", "Roadmap", lead, (table,))


def _phase_row(plan: Plan, phase: Phase) -> tuple[str, ...]:
    text = _find_phase_text(phase)
    start = format_month(plan, phase.starts.value)
    end = format_month(plan, phase.ends.value)
    latest_end = format_month(plan, phase.ends.high)
    work = _describe_work(plan, phase, text.text)
    return phase.name.capitalize(), start, end, latest_end, work, text.owner


class CustomerTask(NamedTuple):
    """`demand` and `demanded_by`: the control or part of the platform, "" for a fact to decide."""

    text: str
    demand: str
    demanded_by: str
    owner: str
    due: str


def list_tasks(plan: Plan, option: Option | None) -> tuple[CustomerTask, ...]:
    """Facts to decide, then tasks of the platform's sections, then the controls as tasks."""
    tasks: dict[tuple[str, str], CustomerTask] = {}
    for text, values in find_missing(plan, option):
        task = CustomerTask(text.text.format_map(values), "", "", text.owner, text.due)
        tasks[task.text, task.demand] = task
    for section in plan.sections:
        for task in _list_section_tasks(section):
            tasks[task.text, task.demand] = task
    for control in plan.controls:
        task = _build_control_task(control)
        tasks[task.text, task.demand] = task
    return tuple(tasks.values())


def _list_section_tasks(section: Section) -> Iterable[CustomerTask]:
    if section.id in UNPRINTED_SECTIONS:
        return
    for line in section.lines:
        for text in TASK_SENTENCE.findall(line.why):
            rule = read_texts().find_owner(f"{line.topic} {text} {section.title}")
            sentence = text[0].upper() + text[1:]
            yield CustomerTask(sentence, line.topic, section.title, rule.owner, rule.due)


def _build_control_task(control: Control) -> CustomerTask:
    rule = read_texts().find_owner(f"{control.demand} {control.feature}")
    owner = control.owner or rule.owner
    text = _describe_control(control)
    return CustomerTask(text, control.demand, control.demanded_by, owner, rule.due)


def _describe_control(control: Control) -> str:
    """The work of a control's owner: run a check, use a command, or provide a missing part."""
    verbs = read_texts().verbs
    # The plan of an older release does not say what is missing.
    missing = control.missing or control.feature
    template = verbs[control.status]
    text = template.format(feature=control.feature, evidence=control.evidence, missing=missing)
    if control.provided:
        text += verbs["provided"].format(provided=control.provided)
    if control.condition:
        text = verbs["conditional"].format(condition=control.condition, text=text)
    return text


def tasks_chapter(plan: Plan, option: Option | None) -> doc.Chapter:
    """One table for each kind of task, in the order of `list_tasks`."""
    section_titles = {section.title for section in plan.sections}
    decisions: list[CustomerTask] = []
    platform: list[CustomerTask] = []
    controls: list[CustomerTask] = []
    for task in list_tasks(plan, option):
        if not task.demand:
            decisions.append(task)
        elif task.demanded_by in section_titles:
            platform.append(task)
        else:
            controls.append(task)

    blocks = doc.keep_blocks(
        _decision_task_table(decisions),
        _task_table("Platform", platform),
        _task_table("Controls", controls),
    )
    lead = "Each task has an owner and is due before the end of the named phase of the roadmap."
    return doc.Chapter("tasks", "Tasks", lead, blocks)


def _decision_task_table(tasks: list[CustomerTask]) -> doc.TableBlock | None:
    if not tasks:
        return None
    columns = {"Task": 4.0, "Owner": 1.3, "Due": 1.1}
    rows = [(task.text, task.owner, task.due) for task in tasks]
    return doc.build_table("To decide", columns, rows)


def _task_table(title: str, tasks: list[CustomerTask]) -> doc.TableBlock | None:
    if not tasks:
        return None
    columns = {"Task": 4.0, "For": 2.0, "Owner": 1.3, "Due": 1.1}
    rows: list[tuple[doc.Cell | str, ...]] = []
    for task in tasks:
        demand = doc.build_cell(task.demand, task.demanded_by)
        rows.append((task.text, demand, task.owner, task.due))
    return doc.build_table(title, columns, rows)


def list_upstreams(option: Option) -> dict[str, str]:
    """Models that the organisation must deploy itself, with the product that serves each."""
    products: dict[str, str] = {}
    for match in filter(None, map(UPSTREAM.match, option.notes)):
        model, product = match.groups()
        products[model] = product
    return products


def find_missing(plan: Plan, option: Option | None) -> Iterable[tuple[TaskText, dict[str, str]]]:
    """Facts that the document needs and the plan does not state."""
    texts = read_texts().missing
    yield texts["identity"], {}
    yield texts["restore"], {}
    if option is None:
        return

    if find_schedule(plan, option) is None:
        yield texts["schedule"], {}
    storage = _list_storage_lines(plan)
    without_backup = _list_data_without_backup(storage)
    if without_backup:
        yield texts["backup"], {"names": fmt.format_list(without_backup)}
    without_retention = _list_data_without_retention(storage)
    if without_retention:
        yield texts["retention"], {"names": fmt.format_list(without_retention)}
    for model, service in list_upstreams(option).items():
        yield texts["upstream"], {"model": model, "service": service}
    weak_prices = _list_weak_prices(plan, option)
    if weak_prices and option.placement in {*OWN_PLACEMENTS, "hybrid"}:
        yield texts["quotes"], {"names": fmt.format_list(weak_prices)}
    if option.cumulative_cost and not any(line.by_year for line in option.cost_lines):
        yield texts["years"], {}


def _list_storage_lines(plan: Plan) -> list[SectionLine]:
    lines: list[SectionLine] = []
    for section in plan.sections:
        if section.id == "storage":
            lines += section.lines
    return lines


def _list_data(lines: list[SectionLine]) -> Iterable[str]:
    for line in lines:
        if DATA_TOPIC.fullmatch(line.topic):
            yield line.topic.removeprefix("Data ")


def _list_data_without_backup(lines: list[SectionLine]) -> list[str]:
    topics = {line.topic for line in lines}
    return [name for name in _list_data(lines) if f"Backup of {name}" not in topics]


def _list_data_without_retention(lines: list[SectionLine]) -> list[str]:
    retention = ""
    for line in reversed(lines):
        if line.topic == "Retention":
            retention = line.choice
    return [name for name in _list_data(lines) if f"{name} " not in retention]


def _list_weak_prices(plan: Plan, option: Option) -> list[str]:
    """Prices of low confidence or without a date in large lines of the bill, each once."""
    lines = build_bill(plan, option)
    positive_total = sum(line.amount for line in lines if line.amount > 0)
    smallest_amount = SMALL_SHARE * positive_total
    names: dict[str, None] = {}
    for line in lines:
        is_weak = line.confidence in WEAK or "undated" in line.as_of
        if is_weak and line.amount > smallest_amount:
            names[name_price(line)] = None
    return list(names)
