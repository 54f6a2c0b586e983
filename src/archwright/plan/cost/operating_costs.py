"""running: all that an option pays beside machines and tokens, with its power, its energy and its carbon.

Not needed by the default stack, and so not priced: a managed cluster's control plane (the platform supervises its own
processes) and an accelerator vendor's software licence (its engines are free software).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.contract.estimate import Estimate, sum_estimates
from archwright.contract.needs import Needs
from archwright.plan.accounting.cash_flow import CashFlow
from archwright.plan.accounting.fleet import Location, MachineFleet
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.cost.control_plane_cost import price_control_plane
from archwright.plan.cost.data_placement import NO_MODELS, OptionContext, build_option_context
from archwright.plan.cost.facility_costs import (
    SitePowerDraw,
    energy_by_place,
    estimate_site_power,
    list_own_places,
    list_training_fabrics,
    price_colocation,
    price_energy,
    price_machine_upkeep,
    price_network_gear,
)
from archwright.plan.cost.hardware_lifecycle import GPU_LIFE, SERVER_LIFE
from archwright.plan.cost.staffing import count_missing_engineers, price_staff
from archwright.plan.cost.storage_and_egress import StoredItems, list_stored_items, price_egress, price_storage
from archwright.sizing.hardware import power
from archwright.sizing.infrastructure import network


class OperatingCosts(NamedTuple):
    """`power_kw` and `rack_units` are of all places of one's own together, None without any; `places` has each."""

    terms: tuple[CashFlow, ...]
    power_kw: Estimate | None
    rack_units: float | None
    energy_kwh_per_month: Estimate | None
    carbon_kg_per_month: Estimate | None
    notes: tuple[str, ...] = ()
    places: tuple[SitePowerDraw, ...] = ()


def estimate_operating_costs(
    needs: Needs,
    catalog: Catalog,
    ledger: PlanProvenance,
    fleets: tuple[MachineFleet, ...],
    where: tuple[Location, ...],
    models: Mapping[str, str] = NO_MODELS,
) -> OperatingCosts:
    """`where`: the option's places; `models`: workload to model, for the size of its files and checkpoints."""
    case = build_option_context(needs, catalog, ledger, fleets, where, models)
    kept = list_stored_items(case)
    places = estimate_site_power(case, kept)
    terms = [
        *price_storage(case, kept),
        *price_egress(case, kept),
        *price_machine_upkeep(case),
        *price_network_gear(case),
        *price_energy(case, kept),
        *price_colocation(case, places),
        *price_control_plane(case),
        *price_staff(case),
    ]
    _record_assumptions(case)
    energy, carbon = estimate_energy_and_carbon(case, kept)
    return OperatingCosts(
        terms=tuple(terms),
        power_kw=_sum_power(case, places),
        rack_units=sum(place.rack_units for place in places) if places else None,
        energy_kwh_per_month=energy,
        carbon_kg_per_month=carbon,
        notes=tuple(_collect_notes(case)),
        places=places,
    )


def _sum_power(case: OptionContext, places: tuple[SitePowerDraw, ...]) -> Estimate | None:
    if not places:
        return None
    basis = case.ledger.create_basis(
        f"power.{'+'.join(place.where.region for place in places)}".lower(),
        "formula",
        "peak draw at the plug of all places of one's own",
        facts=tuple(place.power_kw.basis for place in places),
    )
    return sum_estimates([place.power_kw for place in places], "kW", basis)


def estimate_energy_and_carbon(case: OptionContext, kept: StoredItems) -> tuple[Estimate | None, Estimate | None]:
    """kWh and kg of carbon of a month, mean over the horizon; None where no machine of the option is known."""
    by_place = energy_by_place(case, kept)
    return (_sum_energy(case, by_place), _sum_carbon(case, by_place)) if by_place else (None, None)


def _sum_energy(case: OptionContext, by_place: dict[Location, Estimate]) -> Estimate:
    basis = case.ledger.create_basis(
        f"energy.{_join_place_names(by_place)}",
        "formula",
        "electricity of a month, mean over the horizon, cooling included",
        formula="machines x mean draw x hours x PUE, storage and switches of one's own with them",
    )
    return sum_estimates(list(by_place.values()), "kWh/month", basis)


def _sum_carbon(case: OptionContext, by_place: dict[Location, Estimate]) -> Estimate:
    parts, facts = [], []
    for where, energy in by_place.items():
        grams = get_grid_intensity(case, where)
        parts.append(power.carbon_kg(energy, grams))
        facts.append(f"{where.region or where.country}: {grams.value:.0f} g/kWh ({grams.low:.0f} .. {grams.high:.0f})")
    basis = case.ledger.create_basis(
        f"carbon.{_join_place_names(by_place)}",
        "formula",
        "carbon of a month's electricity, mean over the horizon; making the hardware is not in here",
        formula="kWh x what the grid emits for one, yearly mean of the place",
        facts=tuple(facts),
    )
    return sum_estimates(parts, "kg/month", basis)


def get_grid_intensity(case: OptionContext, where: Location) -> Estimate:
    """g/kWh where it stands."""
    region = case.catalog.region(where.provider, where.region)
    own = region.grid_gco2_per_kwh if region is not None else None
    return power.estimate_grid_intensity(where.country, case.catalog, own)


def _join_place_names(by_place: dict[Location, Estimate]) -> str:
    return "+".join(f"{place.provider}-{place.region}" for place in by_place).lower()


def _record_assumptions(case: OptionContext) -> None:
    """What the figures above took for granted, once in a plan."""
    if all(place.placement == "this-machine" for place in case.where):
        return
    case.ledger.add_assumptions(
        "data count in every option at its own price of storage, also those that are there already",
        "no control plane of a managed cluster and no vendor's software licence is priced: the stack needs none",
        "engineers who build models and products are the same in every option and not counted; platform engineers are",
    )
    if any(place.placement == "on-premises" for place in list_own_places(case)):
        case.ledger.add_assumptions(
            f"machines of one's own are renewed after {case.quotes.lifetime_years(GPU_LIFE):g} years (with "
            f"accelerators) or {case.quotes.lifetime_years(SERVER_LIFE):g} (without), and sold at the end of the "
            "horizon for what their age leaves; renewals within the horizon are capex, what machines sell for is not "
            "deducted",
            "the house has its line to the internet: traffic out of it costs nothing more",
            "owned machines are sunk: neither their purchase nor what they would sell for counts; they serve until the "
            "end of the plan's year next to that of their economic life, and what follows them is bought then",
        )


def _collect_notes(case: OptionContext) -> list[str]:
    more = count_missing_engineers(case)
    notes = []
    if case.seat is not None and case.seat.is_shared:
        notes.append(
            f"{', '.join(case.seat.parts)} take {case.seat.cores:.2g} cores at the peak and share a machine that "
            "answers: nobody asks for a spare"
        )
    notes += [f"needs {more:.1f} platform engineers more than there are"] if more > 0 else []
    for fleet, fabric in list_training_fabrics(case):
        has = fleet.machine.network_bytes_per_s
        if has is not None and fleet.purchase != "bought" and has < fabric.ports * network.FAST_PORT_BYTES_PER_S:
            notes.append(
                f"{fabric.job.workload}: {fleet.machine.id} has {has / network.GIGABIT:.0f} Gbit/s, and its job on "
                f"{fabric.job.machines} machines asks for {fabric.ports} x 400"
            )
    return notes
