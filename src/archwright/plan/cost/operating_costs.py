"""running: all that an option pays beside machines and tokens, with its power, its energy and its carbon.

Not needed by the default stack, and so not priced: a managed cluster's control plane (the platform supervises its own
processes) and an accelerator vendor's software licence (its engines are free software).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.contract.estimate import Estimate, total
from archwright.contract.needs import Needs
from archwright.plan.accounting.cash_flow import Term
from archwright.plan.accounting.fleet import Fleet, Where
from archwright.plan.accounting.provenance import Ledger
from archwright.plan.cost.control_plane_cost import host_terms
from archwright.plan.cost.data_placement import NO_MODELS, Case, case_of
from archwright.plan.cost.facility_costs import (
    Plug,
    energy_by_place,
    energy_terms,
    fabrics,
    machine_terms,
    network_terms,
    own_places,
    plugs,
    space_terms,
)
from archwright.plan.cost.hardware_lifecycle import GPU_LIFE, SERVER_LIFE
from archwright.plan.cost.staffing import hires, staff_terms
from archwright.plan.cost.storage_and_egress import Lying, egress_terms, lying, storage_terms
from archwright.sizing.hardware import power
from archwright.sizing.infrastructure import network


class Running(NamedTuple):
    """`power_kw` and `rack_units` are of all places of one's own together, None without any; `places` has each."""

    terms: tuple[Term, ...]
    power_kw: Estimate | None
    rack_units: float | None
    energy_kwh_per_month: Estimate | None
    carbon_kg_per_month: Estimate | None
    notes: tuple[str, ...] = ()
    places: tuple[Plug, ...] = ()


def running(
    needs: Needs,
    catalog: Catalog,
    ledger: Ledger,
    fleets: tuple[Fleet, ...],
    where: tuple[Where, ...],
    models: Mapping[str, str] = NO_MODELS,
) -> Running:
    """`where` are the option's places, those of its fleets among them or not; `models` maps a workload to the model
    that it runs, for the size of its files and checkpoints.
    """
    case = case_of(needs, catalog, ledger, fleets, where, models)
    kept = lying(case)
    places = plugs(case, kept)
    terms = [
        *storage_terms(case, kept),
        *egress_terms(case, kept),
        *machine_terms(case),
        *network_terms(case),
        *energy_terms(case, kept),
        *space_terms(case, places),
        *host_terms(case),
        *staff_terms(case),
    ]
    _assume(case)
    energy, carbon = energy_of(case, kept)
    return Running(
        terms=tuple(terms),
        power_kw=_whole_power(case, places),
        rack_units=sum(place.rack_units for place in places) if places else None,
        energy_kwh_per_month=energy,
        carbon_kg_per_month=carbon,
        notes=tuple(_notes(case)),
        places=places,
    )


def _whole_power(case: Case, places: tuple[Plug, ...]) -> Estimate | None:
    if not places:
        return None
    basis = case.ledger.basis(
        f"power.{'+'.join(place.where.region for place in places)}".lower(),
        "formula",
        "peak draw at the plug of all places of one's own",
        facts=tuple(place.power_kw.basis for place in places),
    )
    return total([place.power_kw for place in places], "kW", basis)


def energy_of(case: Case, kept: tuple[Lying, ...]) -> tuple[Estimate | None, Estimate | None]:
    """kWh and kg of carbon of a month, mean over the horizon; None where no machine of the option is known."""
    by_place = energy_by_place(case, kept)
    return (_energy(case, by_place), _carbon(case, by_place)) if by_place else (None, None)


def _energy(case: Case, by_place: dict[Where, Estimate]) -> Estimate:
    basis = case.ledger.basis(
        f"energy.{_named(by_place)}",
        "formula",
        "electricity of a month, mean over the horizon, cooling included",
        formula="machines x mean draw x hours x PUE, storage and switches of one's own with them",
    )
    return total(list(by_place.values()), "kWh/month", basis)


def _carbon(case: Case, by_place: dict[Where, Estimate]) -> Estimate:
    parts, facts = [], []
    for where, energy in by_place.items():
        grams = grid_at(case, where)
        parts.append(power.carbon_kg(energy, grams))
        facts.append(f"{where.region or where.country}: {grams.value:.0f} g/kWh ({grams.low:.0f} .. {grams.high:.0f})")
    basis = case.ledger.basis(
        f"carbon.{_named(by_place)}",
        "formula",
        "carbon of a month's electricity, mean over the horizon; making the hardware is not in here",
        formula="kWh x what the grid emits for one, yearly mean of the place",
        facts=tuple(facts),
    )
    return total(parts, "kg/month", basis)


def grid_at(case: Case, where: Where) -> Estimate:
    """g/kWh where it stands."""
    region = case.catalog.region(where.provider, where.region)
    return power.grid(where.country, case.catalog, region.grid_gco2_per_kwh if region is not None else None)


def _named(by_place: dict[Where, Estimate]) -> str:
    return "+".join(f"{place.provider}-{place.region}" for place in by_place).lower()


def _assume(case: Case) -> None:
    """What the figures above took for granted, once in a plan."""
    if all(place.placement == "this-machine" for place in case.where):
        return
    case.ledger.assume(
        "data count in every option at its own price of storage, also those that are there already",
        "no control plane of a managed cluster and no vendor's software licence is priced: the stack needs none",
        "engineers who build models and products are the same in every option and not counted; platform engineers are",
    )
    if any(place.placement == "on-premises" for place in own_places(case)):
        case.ledger.assume(
            f"machines of one's own are renewed after {case.quotes.years(GPU_LIFE):g} years (with accelerators) or "
            f"{case.quotes.years(SERVER_LIFE):g} (without), and sold at the end of the horizon for what their age "
            "leaves; renewals within the horizon are capex, what machines sell for is not deducted",
            "the house has its line to the internet: traffic out of it costs nothing more",
            "owned machines are sunk: neither their purchase nor what they would sell for counts; they serve until the "
            "end of the plan's year next to that of their economic life, and what follows them is bought then",
        )


def _shared(case: Case) -> Iterable[str]:
    if case.seat is not None and case.seat.shared:
        yield (
            f"{', '.join(case.seat.parts)} take {case.seat.cores:.2g} cores at the peak and share a machine that "
            "answers: nobody asks for a spare"
        )


def _notes(case: Case) -> list[str]:
    more = hires(case)
    notes = [*_shared(case)]
    notes += [f"needs {more:.1f} platform engineers more than there are"] if more > 0 else []
    for fleet, fabric in fabrics(case):
        has = fleet.machine.network_bytes_per_s
        if has is not None and fleet.purchase != "bought" and has < fabric.ports * network.FAST:
            notes.append(
                f"{fabric.job.workload}: {fleet.machine.id} has {has / network.GIGABIT:.0f} Gbit/s, and its job on "
                f"{fabric.job.machines} machines asks for {fabric.ports} x 400"
            )
    return notes
