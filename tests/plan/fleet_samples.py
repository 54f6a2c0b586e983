"""Machines and places to run options on, for the tests of what options pay beside them."""

from __future__ import annotations

from archwright.catalog.catalog import Catalog
from archwright.contract.needs import Needs
from archwright.contract.plan import PurchaseKind
from archwright.plan.accounting.fleet import Location, MachineFleet
from archwright.sizing.hardware.machine import Machine


def house(country: str = "DE") -> Location:
    return Location("on-premises", "on-premises", country, country)


CLOUD = Location("cloud", "aws", "us-east-1", "US")
CLOUD_EU = Location("cloud", "aws", "eu-north-1", "SE")
HOSTED = Location("hosted-api", "openai", "", "")
HERE = Location("this-machine", "this-machine", "DE", "DE")


def own_fleet(
    needs: Needs,
    catalog: Catalog,
    node: str,
    workloads: tuple[str, ...],
    count: int = 1,
    where: Location | None = None,
) -> MachineFleet:
    """`count` machines, bought, busy half of the time."""
    row, months = catalog.nodes[node], needs.budget.horizon_months
    device = catalog.accelerators.get(row.accelerator or "")
    ram, network = float(row.ram_bytes), row.network_bytes_per_s
    machine = Machine(row.id, device, row.accelerator_count, row.cores, ram, network)
    place = where or house()
    watts = 0.8 * row.power_w
    return MachineFleet(place, machine, workloads, "bought", (float(count),) * months, count, 0.5, watts, node=row)


def rented_fleet(
    needs: Needs, catalog: Catalog, workloads: tuple[str, ...], where: Location = CLOUD, count: int = 1
) -> MachineFleet:
    """`count` machines of the place's first offer with accelerators."""
    months = needs.budget.horizon_months
    offer = next(
        one
        for one in catalog.offers
        if (one.provider, one.region) == (where.provider, where.region) and one.accelerator_count
    )
    device = catalog.accelerators[offer.accelerator or ""]
    machine = Machine(offer.instance_type, device, offer.accelerator_count, offer.vcpu, float(offer.ram_bytes))
    kind: PurchaseKind = "on-demand"
    return MachineFleet(where, machine, workloads, kind, (float(count),) * months, count, 0.5, 500.0, offer=offer)
