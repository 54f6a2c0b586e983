"""Risk register: facts and limits that could make the plan wrong, with probability and impact from the plan's bands."""

import math
import re
from collections.abc import Iterable
from statistics import NormalDist
from typing import NamedTuple

from archwright.contract.decision import CostDriver
from archwright.contract.plan import Option, Plan
from archwright.report import document as doc
from archwright.report import number_format as fmt
from archwright.report.charts import name_drivers
from archwright.report.document_texts import read_texts

AT_RISK = re.compile(
    r"at risk: (?P<name>.+?) limit (?P<limit>\S+) (?:is|lies) inside the interval (?P<low>\S+) \.\. (?P<high>\S+)"
)
# The ends of a 90 % band lie this many standard deviations from its middle.
BAND_DEVIATIONS = NormalDist().inv_cdf(0.95)


class Risk(NamedTuple):
    """`probability` that the trigger happens, by the band; `impact` on the total in the plan's currency, None: unknown.

    `weight` orders the risks.
    """

    title: str
    cause: str
    probability: float
    impact: float | None
    effect: str
    mitigation: str
    trigger: str
    owner: str
    weight: float


def list_risks(plan: Plan, option: Option | None) -> tuple[Risk, ...]:
    """The largest first: facts by the cost of their upper end, then limits inside their bands by probability."""
    if option is None:
        return ()
    names = name_drivers(plan.decision.drivers)
    facts = [_assess_fact(plan, option, driver, names[driver.basis]) for driver in plan.decision.drivers]
    limits = [found for note in option.notes if (found := _assess_limit(note)) is not None]
    ordered = sorted([*facts, *limits], key=lambda risk: -risk.weight)
    return tuple(
        {risk.title: risk for risk in reversed(ordered)}[title] for title in dict.fromkeys(r.title for r in ordered)
    )


def _assess_fact(plan: Plan, option: Option, driver: CostDriver, name: str) -> Risk:
    """The trigger is the value at which another option would be chosen if it is inside the band, else the worse end."""
    estimate, months = driver.estimate, plan.horizon_months
    proportional = sum(c.total_over(months) for c in option.cost_lines if driver.basis in c.drivers)
    edge = estimate.high if proportional >= 0 else estimate.low
    if driver.inside and driver.flips_at is not None:
        edge = driver.flips_at
    impact = abs(proportional * (edge / estimate.value - 1)) if estimate.value else 0.0
    flips = f"; {driver.consequence}" if driver.flips_to and driver.inside else ""
    text = read_texts().find_risk(driver.basis)
    values = {
        "name": name,
        "value": fmt.format_measure(estimate.value, estimate.unit),
        "band": fmt.format_band(estimate),
        "edge": fmt.format_measure(edge, estimate.unit),
        "edge_low": fmt.format_measure(edge, estimate.unit),
    }
    return Risk(
        text.title.format_map(values),
        text.cause.format_map(values),
        _chance_beyond(estimate.low, estimate.high, edge, above=edge >= estimate.value),
        impact,
        f"{plan.currency} {fmt.format_compact(impact)}{flips}",
        text.mitigation,
        text.trigger.format_map(values),
        text.owner,
        impact / (abs(option.total_cost.value) if option.total_cost is not None and option.total_cost.value else 1.0),
    )


def _assess_limit(note: str) -> Risk | None:
    found = AT_RISK.match(note)
    if found is None:
        return None
    ends = [_read_number(found[end]) for end in ("limit", "low", "high")]
    if any(end is None for end in ends):
        return None
    limit, low, high = (end or 0.0 for end in ends)
    scope, _, quantity = found["name"].rpartition(".")
    text = read_texts().find_risk(f"limit.{found['name']}")
    words = quantity.removesuffix("_s").replace("_", " ")
    above = quantity not in ("availability", "quality")
    values = {"name": f"{scope}: {words}" if scope else words, "limit": found["limit"]}
    values["band"] = f"{found['low']} to {found['high']}"
    chance = _chance_beyond(low, high, limit, above=above)
    return Risk(
        text.title.format_map(values),
        text.cause.format_map(values),
        chance,
        None,
        "service level missed",
        text.mitigation,
        text.trigger.format_map(values),
        text.owner,
        chance / 2,
    )


def _read_number(text: str) -> float | None:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None


def _chance_beyond(low: float, high: float, edge: float, *, above: bool) -> float:
    """Chance of a value beyond `edge`, for a normal distribution with this 90 % band (of the logarithm if positive)."""
    if low >= high:
        return 0.0
    if low > 0 and edge > 0 and above:
        low, high, edge = (math.log(x) for x in (low, high, edge))
    spread = (high - low) / 2 / BAND_DEVIATIONS
    below = NormalDist((low + high) / 2, spread).cdf(edge)
    return 1 - below if above else below


def risk_rows(risks: Iterable[Risk]) -> Iterable[tuple[doc.Cell | str, ...]]:
    for risk in risks:
        yield (
            doc.build_cell(risk.title, risk.cause),
            doc.build_cell(format_chance(risk.probability), risk.effect),
            risk.mitigation,
            doc.build_cell(risk.trigger, ("Owner", risk.owner)),
        )


RISK_COLUMNS = {"Risk and cause": 2.3, "Probability, impact": 1.5, "Mitigation": 2.4, "Trigger": 2.0}


def format_chance(chance: float) -> str:
    """`about 30 %`, rounded to 5 % because bands are no more exact."""
    rounded = 5 * round(chance * 20)
    return f"below 5{fmt.SPACE}%" if rounded < 5 else f"about {min(rounded, 95)}{fmt.SPACE}%"


def risk_register_chapter(plan: Plan, option: Option | None) -> doc.Chapter:
    risks = list_risks(plan, option)
    table = doc.build_table("Risks", RISK_COLUMNS, risk_rows(risks)) if risks else None
    stale = doc.build_items("Prices to renew before the order", plan.stale_facts)
    lead = (
        "Probability and impact follow from the 90 % bands of the facts. The largest effect on the total comes first."
    )
    return doc.Chapter("risks", "Risk register", lead, doc.keep_blocks(table, stale))
