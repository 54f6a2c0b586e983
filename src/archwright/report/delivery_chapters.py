"""Roadmap with dates and owners, and the tasks of the customer: decisions, controls and facts that the plan lacks."""

import re
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from typing import NamedTuple

from archwright.contract import number_format as fmt
from archwright.contract.decision import Phase, Schedule
from archwright.contract.evidence import Control
from archwright.contract.plan import OWN_PLACEMENTS, Option, Plan, Purchase
from archwright.report import document as doc
from archwright.report.bill import build_bill, name_price
from archwright.report.document_texts import TaskText, read_texts
from archwright.report.plan_texts import PURCHASE_LABELS

DAYS_PER_MONTH = 365.25 / 12
# An event in the life of a machine in a note: "buy 3 in month 24".
MACHINE_EVENT = re.compile(r"((?:buy|sell|keep|release|extend the support of|renew|replace) \d+) in month (\d+)")
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


def find_schedule(plan: Plan, option: Option | None) -> Schedule | None:
    return next((s for s in plan.decision.schedules if option is not None and s.option == option.name), None)


def start_date(plan: Plan) -> date | None:
    """The day of the plan, taken as the day of the signature; None if it is not a valid time."""
    try:
        return datetime.fromisoformat(plan.created_at).date()
    except ValueError:
        return None


def format_month(plan: Plan, months: float) -> str:
    """`Mar 2027`: that many months after the date of the plan."""
    start = start_date(plan)
    return (
        f"month {fmt.format_number(months, 2)}"
        if start is None
        else f"{start + timedelta(months * DAYS_PER_MONTH):%b %Y}"
    )


def list_traits(plan: Plan, option: Option | None) -> frozenset[str]:
    """Traits of the chosen option that select the decisions to ask for."""
    if option is None:
        return frozenset({"infeasible"})
    kinds = {purchase.kind for purchase in option.purchases}
    schedule = find_schedule(plan, option)
    found = {
        "chosen": True,
        "bought": "bought" in kinds,
        "rented": option.placement != "hosted-api" and bool(kinds - {"bought", "owned"}),
        "hosted": option.placement == "hosted-api",
        "committed": any(kind.startswith("commit") for kind in kinds),
        "regulated": any(_regulation(c.demanded_by) for c in plan.controls),
        "pilot": schedule is not None and any(phase.name == "pilot" for phase in schedule.phases),
    }
    return frozenset(name for name, holds in found.items() if holds)


def _regulation(demanded_by: str) -> str:
    """The regulation that demands a control; "" for demands of the platform and of the needs."""
    name = demanded_by.split(" ")[0]
    return "" if name.endswith(":") or " " not in demanded_by else name


def list_decisions(plan: Plan, option: Option | None) -> list[doc.Item]:
    """Decisions for the board, then the people that the option needs."""
    values = _decision_values(plan, option)
    texts = [row.text.format_map(values) for row in read_texts().select_decisions(list_traits(plan, option))]
    return [*(doc.Item(text) for text in texts[:-1]), *_people(option), *(doc.Item(text) for text in texts[-1:])]


def _decision_values(plan: Plan, option: Option | None) -> dict[str, str]:
    schedule, power = find_schedule(plan, option), option.power_kw if option is not None else None
    pilot = next((p for p in schedule.phases if p.name == "pilot"), None) if schedule is not None else None
    committed = [p for p in (option.purchases if option is not None else ()) if p.kind.startswith("commit")]
    named = dict.fromkeys(filter(None, (_regulation(c.demanded_by) for c in plan.controls)))
    return {
        "option": option.name if option is not None else "",
        "provider": option.provider if option is not None else "",
        "power": fmt.format_quantity(power.high, "kW") if power is not None else "the needed amount",
        "units": fmt.format_number(option.rack_units) if option is not None and option.rack_units else "the needed",
        "terms": fmt.format_list(describe_machines(committed)),
        "regulations": fmt.format_list(name.upper() for name in named),
        "pilot": format_month(plan, pilot.ends.value) if pilot is not None else "",
    }


def describe_machines(purchases: Iterable[Purchase]) -> list[str]:
    """`15 x 8x-mi300x (bought)`; machines that several pools share are counted once."""
    seen, counts = set[str](), dict[tuple[str, str], int]()
    for purchase in purchases:
        key = (purchase.machine, PURCHASE_LABELS[purchase.kind])
        if purchase.pool not in seen or not purchase.shared_with:
            counts[key] = counts.get(key, 0) + purchase.peak
        seen.update(purchase.shared_with)
    return [f"{count} x {machine} ({kind})" for (machine, kind), count in counts.items()]


def _people(option: Option | None) -> Iterable[doc.Item]:
    if option is None:
        return
    if option.staff:
        named = (f"{need.role} {need.format_time(need.needed.value)}" for need in option.staff)
        missing = [f"{need.role} {need.format_time(need.hired)}" for need in option.staff if need.hired > 0.005]
        more = f"; to find or to hire: {fmt.format_list(missing)}" if missing else ", from the present team"
        yield doc.Item(f"People: {fmt.format_list(named)}{more}.")
    elif lines := [line for line in option.cost_lines if line.category == "staff"]:
        amounts = (f"{line.name}, {fmt.format_money(line.amount.value)} per month" for line in lines)
        yield doc.Item(f"People: {'; '.join(amounts)}.")


def list_steps(plan: Plan, option: Option) -> Iterable[doc.Item]:
    """The phases of the roadmap in a line each."""
    schedule = find_schedule(plan, option)
    for phase in schedule.phases if schedule is not None else ():
        text = read_texts().phases.get(phase.name, TaskText(text="", owner="platform lead"))
        until = f"until {format_month(plan, phase.ends.value)}, {format_month(plan, phase.ends.high)} at the latest"
        yield doc.Item(phase.name.capitalize(), f"{until} ({text.owner}): {_describe_work(plan, phase, text.text)}.")


def _describe_work(plan: Plan, phase: Phase, text: str) -> str:
    """The work of a phase; the pilot starts with the measurements that narrow the plan's predictions."""
    pilots = plan.decision.pilots if phase.name == "pilot" else ()
    return "; ".join([text, *(f"{one.workload}: {one.summary}, by `{one.command}`" for one in pilots)])


def list_machine_events(option: Option) -> dict[int, list[str]]:
    """Purchases, extensions of support and sales after the start, by month, from the notes of the option."""
    events: dict[int, list[str]] = {}
    for note in option.notes:
        machine, _, text = note.partition(": ")
        for event in text.split("; "):
            if (found := MACHINE_EVENT.fullmatch(event)) is not None and int(found[2]) > 0:
                events.setdefault(int(found[2]), []).append(f"{found[1]} x {machine}")
    return events


def roadmap_chapter(plan: Plan, option: Option) -> doc.Chapter:
    """Phases with their dates; purchases of later years; the end of the horizon."""
    rows, schedule = list[tuple[str, ...]](), find_schedule(plan, option)
    for phase in schedule.phases if schedule is not None else ():
        text = read_texts().phases.get(phase.name, TaskText(text="", owner="platform lead"))
        ends = format_month(plan, phase.ends.value)
        late, work = format_month(plan, phase.ends.high), _describe_work(plan, phase, text.text)
        rows.append((phase.name.capitalize(), format_month(plan, phase.starts.value), ends, late, work, text.owner))
    for month, events in sorted(list_machine_events(option).items()):
        when = format_month(plan, month)
        rows.append((f"Machines, month {month}", when, when, "", "; ".join(events), "purchasing"))
    end = format_month(plan, plan.horizon_months)
    rows.append(("End of the horizon", end, end, "", "plan again, half a year earlier", "board"))
    columns = {"Phase": 1.3, "From": 1.2, "Until": 1.2, "At the latest": 1.2, "Work": 3, "Owner": 1.2}
    lead = (
        f"Dates count from a signature in {format_month(plan, 0)}. The latest date is the upper end of the 90 % band."
    )
    return doc.Chapter("roadmap", "Roadmap", lead, (doc.build_table("Roadmap", columns, rows),))


class CustomerTask(NamedTuple):
    """`demand` and `demanded_by`: the control or the part of the platform behind the task, "" for a fact to decide."""

    text: str
    demand: str
    demanded_by: str
    owner: str
    due: str


def list_tasks(plan: Plan, option: Option | None) -> tuple[CustomerTask, ...]:
    """Facts to decide, then tasks of the platform's sections, then the controls as tasks."""
    texts = read_texts()
    found = [
        CustomerTask(t.text.format_map(values), "", "", t.owner, t.due) for t, values in find_missing(plan, option)
    ]
    for section in plan.sections:
        for line in section.lines if section.id not in UNPRINTED_SECTIONS else ():
            for text in TASK_SENTENCE.findall(line.why):
                rule = texts.find_owner(f"{line.topic} {text} {section.title}")
                found.append(CustomerTask(text[0].upper() + text[1:], line.topic, section.title, rule.owner, rule.due))
    for control in plan.controls:
        rule = texts.find_owner(f"{control.demand} {control.feature}")
        owner, text = control.owner or rule.owner, _describe_control(control)
        found.append(CustomerTask(text, control.demand, control.demanded_by, owner, rule.due))
    return tuple({(task.text, task.demand): task for task in found}.values())


def _describe_control(control: Control) -> str:
    """Describe the work of a control's owner: run a check, use a command, or provide a missing part."""
    verbs = read_texts().verbs
    # The plan of an older release does not say what is missing.
    missing = control.missing or control.feature
    text = verbs[control.status].format(feature=control.feature, evidence=control.evidence, missing=missing)
    if control.provided:
        text += verbs["provided"].format(provided=control.provided)
    if control.condition:
        text = verbs["conditional"].format(condition=control.condition, text=text)
    return text


def tasks_chapter(plan: Plan, option: Option | None) -> doc.Chapter:
    """One table for each kind of task, in the order of `list_tasks`."""
    tasks, titles = list_tasks(plan, option), {section.title for section in plan.sections}
    kinds: dict[str, list[CustomerTask]] = {"To decide": [], "Platform": [], "Controls": []}
    for task in tasks:
        kinds["To decide" if not task.demand else "Platform" if task.demanded_by in titles else "Controls"].append(task)
    tables = []
    for title, found in kinds.items():
        columns = {"Task": 4.0} | ({"For": 2.0} if title != "To decide" else {}) | {"Owner": 1.3, "Due": 1.1}
        rows = list[tuple[doc.Cell | str, ...]]()
        for task in found:
            demand = [doc.build_cell(task.demand, task.demanded_by)] if task.demand else []
            rows.append((task.text, *demand, task.owner, task.due))
        tables += [doc.build_table(title, columns, rows)] if rows else []
    lead = "Each task has an owner and is due before the end of the named phase of the roadmap."
    return doc.Chapter("tasks", "Tasks", lead, tuple(tables))


def list_upstreams(option: Option) -> dict[str, str]:
    """Models that the organisation must deploy itself, with the product that serves each."""
    found = (UPSTREAM.match(note) for note in option.notes)
    return {one[1]: one[2] for one in found if one is not None}


def find_missing(plan: Plan, option: Option | None) -> Iterable[tuple[TaskText, dict[str, str]]]:
    """Facts that the document needs and the plan does not state."""
    texts = read_texts().missing
    yield texts["identity"], {}
    yield texts["restore"], {}
    if option is None:
        return
    if find_schedule(plan, option) is None:
        yield texts["schedule"], {}
    stored = [line for section in plan.sections if section.id == "storage" for line in section.lines]
    data = [line.topic.removeprefix("Data ") for line in stored if DATA_TOPIC.fullmatch(line.topic)]
    backed = {line.topic.removeprefix("Backup of ") for line in stored if line.topic.startswith("Backup of ")}
    kept = next((line.choice for line in stored if line.topic == "Retention"), "")
    if bare := [name for name in data if name not in backed]:
        yield texts["backup"], {"names": fmt.format_list(bare)}
    if endless := [name for name in data if f"{name} " not in kept]:
        yield texts["retention"], {"names": fmt.format_list(endless)}
    for model, service in list_upstreams(option).items():
        yield texts["upstream"], {"model": model, "service": service}
    lines = build_bill(plan, option)
    least = SMALL_SHARE * sum(line.amount for line in lines if line.amount > 0)
    weak = [name_price(c) for c in lines if c.amount > least and (c.confidence in WEAK or "undated" in c.as_of)]
    if weak and option.placement in {*OWN_PLACEMENTS, "hybrid"}:
        yield texts["quotes"], {"names": fmt.format_list(dict.fromkeys(weak))}
    if option.cumulative_cost and not any(line.by_year for line in option.cost_lines):
        yield texts["years"], {}
