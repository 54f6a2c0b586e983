"""Purchase rules: expired prices, undated prices, US export control.

Export control treats a device as advanced from a total performance of 1,600: dense 10^12 operations per second times
the bits of an operand, the maximum over number formats. Below 4,800 the rule also depends on the die size, which no
table of the catalog states.
"""

import re
from collections.abc import Callable

from archwright.catalog.catalog import Catalog
from archwright.catalog.layers.freshness import parse_as_of
from archwright.catalog.tables.cost_records import ServerSpec
from archwright.catalog.tables.export_rules import read_export_rules
from archwright.catalog.tables.records import Accelerator, Fact
from archwright.contract.plan import ConstraintViolation
from archwright.plan.accounting.budget import OptionDraft
from archwright.plan.options.option_builder import BuiltOption
from archwright.plan.violations import build_violation


def list_stale_prices(drafts: tuple[OptionDraft, ...], catalog: Catalog) -> tuple[str, ...]:
    rows: dict[str, Fact] = {}
    for fleet in (fleet for draft in drafts for fleet in draft.fleets):
        if (row := fleet.offer or fleet.node) is not None:
            rows[row.id] = row
    return catalog.describe_stale_facts(rows.values())


def refuse_expired_prices(draft: OptionDraft, catalog: Catalog) -> OptionDraft:
    expired = tuple(node.id for node in _list_bought_nodes(draft) if not catalog.may_advise_buying(node))
    if not expired:
        return draft
    miss = build_violation("stale_facts", ", ".join(expired), "a price that has not expired")
    return draft._replace(misses=(*draft.misses, miss))


def describe_undated_prices(draft: OptionDraft) -> tuple[str, ...]:
    """Return a note on prices without a date, which may be older than an expired price."""
    undated = ", ".join(node.id for node in _list_bought_nodes(draft) if parse_as_of(node.as_of) is None)
    return (f"request a quote first: the price of {undated} has no date",) if undated else ()


def prefer_unexpired_prices(
    fresh: BuiltOption, stale: BuiltOption, catalog: Catalog, format_amount: Callable[[float], str]
) -> BuiltOption:
    """Return the option without expired prices if it keeps as many limits, with the saving of the other option."""
    old = stale._replace(draft=refuse_expired_prices(stale.draft, catalog))
    if old.draft == stale.draft or len(fresh.draft.misses) >= max(1, len(old.draft.misses)):
        return old
    fresh_usd, stale_usd = (sum(term.sum for term in one.draft.terms or ()) for one in (fresh, stale))
    less = fresh_usd - stale_usd
    if stale.draft.misses or stale.draft.terms is None or less <= 0:
        return fresh
    expired = next(miss.value for miss in old.draft.misses if miss.constraint == "stale_facts")
    saved = f"costs {format_amount(less)} less over the horizon. To accept the price, use --accept-stale"
    note = f"an option with {expired}, whose price has expired, {saved}"
    return fresh._replace(draft=fresh.draft._replace(notes=(*fresh.draft.notes, note)))


def _list_bought_nodes(draft: OptionDraft) -> tuple[ServerSpec, ...]:
    bought = (fleet.node for fleet in draft.fleets if fleet.purchase == "bought" and fleet.node is not None)
    return tuple(dict.fromkeys(bought))


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
