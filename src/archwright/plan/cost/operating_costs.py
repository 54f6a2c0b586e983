"""Operating costs of an option (all costs except compute and tokens), with power, energy and carbon.

Not priced because the default stack does not need them: software licences of accelerator vendors (the engines are free
software).
"""

from collections.abc import Mapping
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.contract.estimate import Estimate, sum_estimates
from archwright.contract.needs import Needs
from archwright.contract.number_format import (
    format_bit_rate,
    format_estimate,
    format_exact,
    format_money,
    format_number,
)
from archwright.contract.plan import PlatformServers, StaffNeed
from archwright.plan.accounting.budget import USD
from archwright.plan.accounting.cash_flow import CashFlow
from archwright.plan.accounting.fleet import Location, MachineFleet
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.cost import facility_costs as facility
from archwright.plan.cost import hardware_lifecycle as lifecycle
from archwright.plan.cost.cloud_services import is_cluster_place, price_cloud_services
from archwright.plan.cost.data_placement import NO_MODELS, OptionContext, build_option_context
from archwright.plan.cost.facility_costs import SitePowerDraw
from archwright.plan.cost.staffing import describe_hires, list_staff, price_staff
from archwright.plan.cost.storage_and_egress import StoredItems, list_stored_items, price_egress, price_storage
from archwright.sizing.hardware import power
from archwright.sizing.infrastructure import network


class OperatingCosts(NamedTuple):
    """Costs, power, energy and carbon. `power_kw`, `rack_units`: sums over on-premises `places`; None without any."""

    terms: tuple[CashFlow, ...]
    power_kw: Estimate | None
    rack_units: float | None
    energy_kwh_per_month: Estimate | None
    carbon_kg_per_month: Estimate | None
    notes: tuple[str, ...] = ()
    places: tuple[SitePowerDraw, ...] = ()
    staff: tuple[StaffNeed, ...] = ()
    servers: tuple[PlatformServers, ...] = ()


def estimate_operating_costs(
    needs: Needs,
    catalog: Catalog,
    ledger: PlanProvenance,
    fleets: tuple[MachineFleet, ...],
    where: tuple[Location, ...],
    models: Mapping[str, str] = NO_MODELS,
) -> OperatingCosts:
    """`where`: the option's places; `models`: model of each workload, for the size of its files and checkpoints."""
    case = build_option_context(needs, catalog, ledger, fleets, where, models)
    kept = list_stored_items(case)
    places = facility.estimate_site_power(case, kept)
    terms = [
        *price_storage(case, kept),
        *price_egress(case, kept),
        *facility.price_machine_upkeep(case),
        *facility.price_network_gear(case),
        *facility.price_energy(case, kept),
        *facility.price_colocation(case, places),
        *facility.price_control_plane(case),
        *facility.price_storage_servers(case, kept),
        *facility.price_further_places(case),
        *price_cloud_services(case),
        *price_staff(case),
    ]
    _record_assumptions(case)
    energy, carbon = estimate_energy_and_carbon(case, kept)
    staff = list_staff(case)
    notes = (*_collect_notes(case), *describe_hires(case.needs, staff))
    found = OperatingCosts(tuple(terms), None, None, energy, carbon, notes, places, staff)
    if not places:
        return found
    basis = ledger.create_basis(
        f"power.{'+'.join(place.where.region for place in places)}".lower(),
        "formula",
        "peak power of all on-premises places, cooling included",
        facts=tuple(place.power_kw.basis for place in places),
    )
    power_kw = sum_estimates([place.power_kw for place in places], "kW", basis)
    servers = tuple(server for place in places for server in place.servers)
    return found._replace(power_kw=power_kw, rack_units=sum(place.rack_units for place in places), servers=servers)


def estimate_energy_and_carbon(case: OptionContext, kept: StoredItems) -> tuple[Estimate | None, Estimate | None]:
    """Return kWh and kg of carbon per month, mean over the horizon; None if the option has no known machine."""
    by_place = facility.energy_by_place(case, kept)
    if not by_place:
        return None, None
    names = "+".join(f"{place.provider}-{place.region}" for place in by_place).lower()
    energy_basis = case.ledger.create_basis(
        f"energy.{names}",
        "formula",
        "electricity per month, mean over the horizon, cooling included",
        formula="machines x mean power x hours x PUE, with on-premises storage and switches",
    )
    parts, facts = [], []
    for where, energy in by_place.items():
        grams = get_grid_intensity(case, where)
        parts.append(power.carbon_kg(energy, grams))
        facts.append(f"{where.region or where.country}: {format_estimate(grams)}")
    carbon_basis = case.ledger.create_basis(
        f"carbon.{names}",
        "formula",
        "carbon of the electricity per month, mean over the horizon, without hardware production",
        formula="kWh x grid intensity per kWh, yearly mean of the place",
        facts=tuple(facts),
    )
    energy = sum_estimates(list(by_place.values()), "kWh/month", energy_basis)
    return energy, sum_estimates(parts, "kg/month", carbon_basis)


def get_grid_intensity(case: OptionContext, where: Location) -> Estimate:
    """Return the carbon intensity of the grid at a place, in g/kWh."""
    region = case.catalog.region(where.provider, where.region)
    own = region.grid_gco2_per_kwh if region is not None else None
    return power.estimate_grid_intensity(where.country, case.catalog, own)


def _record_assumptions(case: OptionContext) -> None:
    """Record the assumptions of operating costs, once per plan."""
    if all(place.placement == "this-machine" for place in case.where):
        return
    case.ledger.add_assumptions(
        "every option pays for the storage of all data at its own price, existing data included",
        "no vendor's software licence is priced: the stack needs none",
        "staff: only the work that runs the platform counts. Engineers who build products are the same in every option",
        "people of organisation.team and platform_engineers cost nothing here: their pay does not depend on the option",
        "a role that organisation.team does not state has nobody yet, so an option pays its work in full",
    )
    if any(place.placement == "on-premises" for place in facility.list_own_places(case)):
        case.ledger.add_assumptions(
            "support of on-premises machines rises after "
            f"{format_exact(case.quotes.lifetime_years(lifecycle.TERM))} years, and failures rise every year. A "
            "machine is renewed if a new one costs less than extended support over the "
            "rest of the horizon. Used machines are sold when their work ends, at the horizon at the latest. Renewals "
            "are capex, and resale is not deducted from capex",
            "the on-premises site has its internet connection, so outbound traffic has no additional cost",
            "the purchase of owned machines is a sunk cost. They are used before machines are bought or rented. Their "
            "resale value is in no option's cost",
        )


def _collect_notes(case: OptionContext) -> list[str]:
    notes = []
    if case.seat is not None and case.seat.is_shared and not is_cluster_place(case, case.seat.where):
        notes.append(
            f"{', '.join(case.seat.parts)} need {format_number(case.seat.cores)} cores at the peak and share a machine "
            "that serves requests, because no availability target needs a spare"
        )
    bought = ((fleet, fleet.node) for fleet in case.fleets if fleet.purchase == "bought")
    notes += [lifecycle.describe_purchases(case.quotes, fleet, node) for fleet, node in bought if node is not None]
    currency = case.needs.budget.currency
    rate = case.catalog.exchange_rate(USD, currency).value
    for owned in lifecycle.list_owned(case.catalog, case.needs, case.fleets):
        notes += lifecycle.describe_owned(case.quotes, owned, lambda usd: format_money(usd * rate, currency))
    for fleet, fabric in facility.list_training_fabrics(case):
        has = fleet.machine.network_bytes_per_s
        if has is not None and fleet.purchase != "bought" and has < fabric.ports * network.FAST_PORT_BYTES_PER_S:
            notes.append(
                f"{fabric.job.workload}: {fleet.machine.id} has {format_bit_rate(has)}, but its job on "
                f"{fabric.job.machines} machines needs {fabric.ports} x 400 Gbit/s"
            )
    return notes
