"""Purchase rules: undated, expired and uncertain prices, US export control.

A price without a date, or past its limit, informs and never wins: machines with such a price are left out, and a note
or the reason for a refusal names what they would save. A price of low confidence enters at the upper end of its band
(`Catalog.sold_nodes`), and the plan asks for a quote.

Export control treats a device as advanced from a total performance of 1,600: dense 10^12 operations per second times
the bits of an operand, the maximum over number formats. Below 4,800 the rule also depends on the die size, which no
table of the catalog states.
"""

import re
from collections.abc import Callable

from archwright.catalog.catalog import Catalog
from archwright.catalog.layers.fact_provenance import PricedMachine
from archwright.catalog.tables.export_rules import read_export_rules
from archwright.catalog.tables.records import Accelerator, Fact
from archwright.contract.plan import ConstraintViolation
from archwright.plan.accounting.budget import OptionDraft
from archwright.plan.options.option_builder import BuiltOption
from archwright.plan.violations import VALID_PRICE, build_violation


def list_stale_prices(drafts: tuple[OptionDraft, ...], catalog: Catalog) -> tuple[str, ...]:
    rows: dict[str, Fact] = {}
    for fleet in (fleet for draft in drafts for fleet in draft.fleets):
        if (row := fleet.offer or fleet.node) is not None:
            rows[row.id] = row
    return catalog.describe_stale_facts(rows.values())


def refuse_invalid_prices(draft: OptionDraft, catalog: Catalog) -> OptionDraft:
    invalid = ", ".join(row.id for row in _list_priced_machines(draft) if not catalog.has_valid_price(row))
    if not invalid:
        return draft
    miss = build_violation("stale_facts", invalid, VALID_PRICE)
    return draft._replace(misses=(*draft.misses, miss))


def describe_uncertain_prices(draft: OptionDraft, catalog: Catalog) -> tuple[str, ...]:
    """Return a note on prices of low confidence: the plan uses the upper end of their band."""
    uncertain = ", ".join(row.id for row in _list_priced_machines(draft) if catalog.is_cautious(row))
    text = f"ask for a quote: the price of {uncertain} is uncertain, so the plan uses the upper end of its band"
    return (text,) if uncertain else ()


def prefer_valid_prices(
    valid: BuiltOption, every: BuiltOption, catalog: Catalog, format_amount: Callable[[float], str]
) -> BuiltOption:
    """Return the option with valid prices if it keeps as many limits, with what the option with any price would save.

    `every`: the best option if undated and expired prices counted.
    """
    other = every._replace(draft=refuse_invalid_prices(every.draft, catalog))
    if other.draft == every.draft:
        return valid
    if len(valid.draft.misses) >= max(1, len(other.draft.misses)):
        return other
    less = sum(term.sum for term in valid.draft.terms or ()) - sum(term.sum for term in every.draft.terms or ())
    if every.draft.misses or every.draft.terms is None or less <= 0:
        return valid
    machines = next(miss.value for miss in other.draft.misses if miss.constraint == "stale_facts")
    saved = f"would cost {format_amount(less)} less over the horizon. Ask for a quote, or use --accept-stale"
    note = f"an option with {machines}, whose price is undated or expired, {saved}"
    return valid._replace(draft=valid.draft._replace(notes=(*valid.draft.notes, note)))


def _list_priced_machines(draft: OptionDraft) -> tuple[PricedMachine, ...]:
    """Return the machines that the option buys or rents; owned machines are paid for."""
    rows = (fleet.offer or fleet.node for fleet in draft.fleets if fleet.purchase != "owned")
    return tuple(dict.fromkeys(row for row in rows if row is not None))


ADVANCED_PERFORMANCE = 1600.0
BITS_PATTERN = re.compile(r"\d+")


def check_export_control(draft: OptionDraft, headquarters: str) -> OptionDraft:
    """Check bought devices by their country and the organisation's country; rented machines are not exported."""
    notes, misses = dict[str, None](), dict[ConstraintViolation, None]()
    for fleet in draft.fleets:
        device = fleet.machine.accelerator
        if fleet.purchase != "bought" or device is None or compute_total_performance(device) < ADVANCED_PERFORMANCE:
            continue
        for country in dict.fromkeys((fleet.where.country, headquarters)):
            rule = read_export_rules().get(country)
            if rule is not None and rule.outcome == "denied":
                text = f"US export rules block {device.id} in {country} (group {rule.groups})"
                misses[build_violation("export", text, None)] = None
            elif rule is not None:
                text = f"condition: {device.id} for {country} (groups {rule.groups}) needs an export licence"
                notes[f"{text}: {rule.source}"] = None
    return draft._replace(misses=(*draft.misses, *misses), notes=(*notes, *draft.notes))


def compute_total_performance(device: Accelerator) -> float:
    """Return the total performance; 0 if the catalog states no rate of the device."""
    found = ((rate, BITS_PATTERN.search(name)) for name, rate in device.flops.items() if name != "tf32")
    return max((rate / 1e12 * int(bits.group()) for rate, bits in found if bits is not None), default=0.0)
