"""Advanced accelerators that are bought for a country under export control: a condition that is printed, or a miss.

Advanced is what computes, dense, at least 1,600 in the rule's own measure: 10^12 operations a second times the bits of
an operand, the largest over number formats. Below 4,800 it hangs on the size of the chip too, which no table
states.
"""

from __future__ import annotations

import re

from archwright.catalog.tables.export_rules import read_export_rules
from archwright.catalog.tables.records import Accelerator
from archwright.contract.plan import ConstraintViolation
from archwright.plan.accounting.budget import OptionDraft
from archwright.plan.violations import make_miss

ADVANCED_PERFORMANCE = 1600.0
BITS_PATTERN = re.compile(r"\d+")


def check_export_control(draft: OptionDraft, headquarters: str) -> OptionDraft:
    """What is bought counts, for where it stands and for who buys it; what is rented is not exported."""
    notes, misses = dict[str, None](), dict[ConstraintViolation, None]()
    for fleet in draft.fleets:
        device = fleet.machine.accelerator
        if fleet.purchase != "bought" or device is None or compute_total_performance(device) < ADVANCED_PERFORMANCE:
            continue
        for country in dict.fromkeys((fleet.where.country, headquarters)):
            rule = read_export_rules().get(country)
            if rule is not None and rule.outcome == "denied":
                said = f"US export rules bar {device.id} to {country} (group {rule.groups})"
                misses[make_miss("export", said, None)] = None
            elif rule is not None:
                said = f"condition: {device.id} for {country} (groups {rule.groups}) takes an export licence"
                notes[f"{said}: {rule.source}"] = None
    return draft._replace(misses=(*draft.misses, *misses), notes=(*notes, *draft.notes))


def compute_total_performance(device: Accelerator) -> float:
    """Zero for a device of which no rate is known."""
    found = ((rate, BITS_PATTERN.search(name)) for name, rate in device.flops.items() if name != "tf32")
    return max((rate / 1e12 * int(bits.group()) for rate, bits in found if bits is not None), default=0.0)
