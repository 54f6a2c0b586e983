"""Machine prices as the sum of their parts: cores, memory, accelerators and disks at a region's rates.

A rate belongs to the family or accelerator that aliases.csv (`charge`) names, else to the family in its own name (`N2
Instance`: n2). A machine of which one part has no rate has no price.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from archwright.catalog.layers.refreshed_layer import MachineType
from archwright.catalog.sources.source_records import ComponentRate, InstancePrice
from archwright.catalog.tables.name_resolution import normalise_name
from archwright.catalog.tables.records import Alias

GIB = 2**30
CHARGE = "charge"
# The first word of a rate that names a family: a letter or two, a number, a letter.
FAMILY = re.compile(r"^([a-z]{1,2}\d[a-z]?)\b", re.IGNORECASE)
# Machines that pay for a part of a core.
FRACTIONAL_CORE = re.compile(r"(micro|small|medium)$")
ComponentRates = Mapping[tuple[str, str], float]


class ComponentPricing:
    """Prices of `machines` by the rates of a file."""

    def __init__(self, rates: Iterable[ComponentRate], aliases: Iterable[Alias]) -> None:
        named = {normalise_name(alias.name): alias.id for alias in aliases if alias.kind == CHARGE}
        self._regions: dict[str, dict[bool, dict[tuple[str, str], float]]] = {}
        for rate in rates:
            family = FAMILY.match(rate.of)
            of = named.get(normalise_name(rate.of)) or (family[1].lower() if family else "")
            if of or not rate.of:
                there = self._regions.setdefault(rate.region, {False: {}, True: {}})
                there[rate.spot].setdefault((rate.part, of), rate.usd_per_hour)

    def machine_prices(self, machines: Iterable[MachineType]) -> Iterator[InstancePrice]:
        listed = [machine for machine in machines if not FRACTIONAL_CORE.search(machine.instance_type)]
        for region, rates in self._regions.items():
            for machine in listed:
                price = _sum_components(machine, rates[False])
                if price is not None:
                    yield InstancePrice(region, machine.instance_type, price, _sum_components(machine, rates[True]))


def _sum_components(machine: MachineType, rates: ComponentRates) -> float | None:
    """None when a part has no rate."""
    parts = machine.instance_type.split("-")
    # The particular first: `x1-large` before `x1`.
    family = next((name for name in ("-".join(parts[:2]), parts[0]) if ("core", name) in rates), parts[0])
    amounts = {
        ("core", family): float(machine.vcpu),
        ("ram", family): machine.ram_bytes / GIB,
        ("gpu", machine.accelerator or ""): machine.accelerator_count * machine.accelerator_share,
        # A disk is sold by the GiB, and stated by the billion of them.
        ("ssd", ""): (machine.local_nvme_bytes or 0) / 1e9,
    }
    priced = [rates[part] * amount for part, amount in amounts.items() if amount and part in rates]
    return sum(priced) if len(priced) == sum(amount > 0 for amount in amounts.values()) else None
