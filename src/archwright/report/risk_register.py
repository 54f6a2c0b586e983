"""Risk register: facts and limits that could make the plan wrong, with probability and impact from the plan's bands."""

from collections.abc import Iterable
from typing import NamedTuple

from archwright.contract import number_format as fmt
from archwright.contract.decision import CostDriver
from archwright.contract.plan import LimitProbability, Option, Plan
from archwright.report import document as doc
from archwright.report.bill import build_bill, name_price
from archwright.report.charts import name_drivers
from archwright.report.document_texts import read_texts

# A switching point inside a 90 % band: it is less likely than not.
INSIDE = "5 to 50 %"
END = "5 %"
# A limit that is less probable is a risk.
CERTAIN = 0.95
# Order of a missed service level among the impacts on cost, as a share of the total.
LIMIT_WEIGHT = 0.25


class Risk(NamedTuple):
    """`probability` of the trigger by the band; `impact` on the total in the plan's currency, None: a service level.

    `weight` orders the risks: the impact as a share of the total.
    """

    title: str
    cause: str
    probability: str
    impact: float | None
    effect: str
    mitigation: str
    trigger: str
    owner: str
    weight: float


def list_risks(plan: Plan, option: Option | None) -> tuple[Risk, ...]:
    """The largest first, each title once: facts of the own cost by their worse end, and limits that may break."""
    if option is None:
        return ()
    names = name_drivers(plan.decision.drivers)
    named = {basis for line in option.cost_lines for basis in line.drivers}
    drivers = (driver for driver in plan.decision.drivers if driver.basis in named)
    found = [_assess_fact(plan, option, driver, names[driver.basis]) for driver in drivers]
    found += [_assess_limit(one) for one in option.limits if one.probability < CERTAIN]
    ordered = sorted(found, key=lambda risk: -risk.weight)
    return tuple(
        {risk.title: risk for risk in reversed(ordered)}[title] for title in dict.fromkeys(r.title for r in ordered)
    )


def _assess_fact(plan: Plan, option: Option, driver: CostDriver, name: str) -> Risk:
    """The trigger is the value at which another option would be chosen if it is inside the band, else the worse end."""
    estimate, inside = driver.estimate, driver.inside and driver.flips_at is not None
    proportional = sum(c.total_over(plan.horizon_months) for c in option.cost_lines if driver.basis in c.drivers)
    edge = estimate.high if proportional >= 0 else estimate.low
    edge = driver.flips_at if inside and driver.flips_at is not None else edge
    impact = abs(proportional * (edge / estimate.value - 1)) if estimate.value else 0.0
    values = {
        "name": name,
        "value": fmt.format_quantity(estimate.value, estimate.unit),
        "band": fmt.format_interval(estimate),
        "edge": fmt.format_quantity(edge, estimate.unit),
    }
    total = option.total_cost.value if option.total_cost is not None else 0.0
    effect = f"{fmt.format_money(impact, plan.currency)}" + (f"; {driver.consequence}" if inside else "")
    weight = impact / abs(total) if total else 0.0
    return _fill_risk(driver.basis, values, INSIDE if inside else END, impact, effect, weight)


def _assess_limit(one: LimitProbability) -> Risk:
    values = {
        "name": name_limit(one.limit),
        "limit": fmt.format_quantity(one.stated, one.predicted.unit),
        "chance": fmt.format_share(one.probability),
        "band": fmt.format_interval(one.predicted),
    }
    missed, weight = fmt.format_share(1 - one.probability), LIMIT_WEIGHT * (1 - one.probability)
    return _fill_risk(f"limit.{one.limit}", values, missed, None, "limit missed", weight)


def name_limit(constraint: str) -> str:
    """`assistant: time to first token (p95)` for `assistant.ttft_p95_s`."""
    scope, _, quantity = constraint.replace(".quality.", ".").rpartition(".")
    words = read_texts().quantities.get(quantity, quantity.replace("_", " "))
    return f"{scope}: {words}" if scope else words


def _fill_risk(
    name: str, values: dict[str, str], probability: str, impact: float | None, effect: str, weight: float
) -> Risk:
    text = read_texts().find_risk(name)
    title, cause, trigger = (words.format_map(values) for words in (text.title, text.cause, text.trigger))
    return Risk(title, cause, probability, impact, effect, text.mitigation, trigger, text.owner, weight)


def risk_rows(risks: Iterable[Risk]) -> Iterable[tuple[doc.Cell | str, ...]]:
    for risk in risks:
        yield (
            doc.build_cell(risk.title, risk.cause),
            doc.build_cell(risk.probability, risk.effect),
            risk.mitigation,
            doc.build_cell(risk.trigger, ("Owner", risk.owner)),
        )


RISK_COLUMNS = {"Risk and cause": 2.3, "Probability, impact": 1.5, "Mitigation": 2.4, "Trigger": 2.0}


def risk_register_chapter(plan: Plan, option: Option | None) -> doc.Chapter:
    risks = list_risks(plan, option)
    table = doc.build_table("Risks", RISK_COLUMNS, risk_rows(risks)) if risks else None
    used = {name_price(line) for line in build_bill(plan, option)} if option is not None else set[str]()
    old = (fact for fact in plan.stale_facts if fact.rpartition(": ")[0] in used)
    stale = doc.build_items("Prices to renew before the order", old)
    lead = "Probability and impact follow from the 90 % bands: 5 % lie beyond each end. The largest effect comes first."
    return doc.Chapter("risks", "Risk register", lead, doc.keep_blocks(table, stale))
