"""From parts to an option: what runs beside the machines is added, limits of the house are judged."""

from __future__ import annotations

from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.contract.needs import Needs
from archwright.contract.plan import ConstraintViolation
from archwright.plan.accounting.budget import OptionDraft, check_limit, is_capex, is_monthly
from archwright.plan.accounting.cash_flow import CashFlow
from archwright.plan.accounting.fleet import Location
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.capacity.quotas import check_machine_quotas
from archwright.plan.capacity.served_load import BatchLoad, ServedLoad
from archwright.plan.cost.operating_costs import OperatingCosts, estimate_operating_costs
from archwright.plan.options.pool_writer import OptionPart, ProvisionedLoad, list_fleet_places
from archwright.plan.violations import make_miss


class BuiltOption(NamedTuple):
    """A draft, what of it its predictions need (`served`: where that is resolved already), what its sizes assume."""

    draft: OptionDraft
    serving: tuple[ProvisionedLoad | BatchLoad, ...] = ()
    assumptions: tuple[str, ...] = ()
    served: tuple[ServedLoad, ...] = ()


class OptionBuilder:
    def __init__(self, needs: Needs, catalog: Catalog, ledger: PlanProvenance) -> None:
        self._needs, self._catalog, self._ledger = needs, catalog, ledger

    def build(self, draft: OptionDraft, part: OptionPart, where: tuple[Location, ...], *, whole: bool) -> BuiltOption:
        """`draft` says name, placement, provider and regions; `whole`: every workload has its place, so there is a
        price. The first of `where` is the option's main place.
        """
        scarce, said = check_machine_quotas(part.fleets, self._catalog)
        draft = draft._replace(
            pools=part.pools,
            models=part.models,
            purchases=part.purchases,
            fleets=part.fleets,
            misses=tuple(dict.fromkeys((*draft.misses, *part.misses, *scarce))),
            notes=tuple(dict.fromkeys((*draft.notes, *said, *part.notes))),
        )
        if not whole:
            return BuiltOption(draft, part.serving, part.assumptions)
        every = tuple(dict.fromkeys((*where, *list_fleet_places(part.fleets))))
        found = estimate_operating_costs(self._needs, self._catalog, self._ledger, part.fleets, every, part.models)
        misses, notes = list(draft.misses), [*draft.notes, *found.notes]
        self._check_site_limits(where, found, misses, notes)
        draft = draft._replace(
            terms=(*part.terms, *found.terms),
            power_kw=found.power_kw,
            rack_units=found.rack_units,
            energy_kwh_per_month=found.energy_kwh_per_month,
            carbon_kg_per_month=found.carbon_kg_per_month,
            misses=tuple(misses),
            notes=tuple(notes),
        )
        return BuiltOption(draft, part.serving, part.assumptions)

    def _check_site_limits(
        self, where: tuple[Location, ...], found: OperatingCosts, misses: list[ConstraintViolation], notes: list[str]
    ) -> None:
        """The site's own limits: sites of workloads have theirs, judged there."""
        site = self._needs.placement.site
        for place in found.places:
            if site is None or place.where not in where:
                continue
            check_limit("power_kw", place.power_kw, site.power_kw, misses, notes)
            if site.rack_units is not None and place.rack_units > site.rack_units:
                misses.append(make_miss("rack_units", place.rack_units, site.rack_units))


def sum_monthly_usd(terms: tuple[CashFlow, ...]) -> float:
    """What counts against the monthly limit, mean over the horizon."""
    return sum(term.sum / len(term.flow) for term in terms if is_monthly(term))


def sum_capex_usd(terms: tuple[CashFlow, ...]) -> float:
    return sum(term.sum for term in terms if is_capex(term))
