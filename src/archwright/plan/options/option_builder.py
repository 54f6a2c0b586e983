"""From parts to an option: what runs beside the machines is added, limits of the house are judged."""

from __future__ import annotations

from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.contract.needs import Needs
from archwright.contract.plan import Miss
from archwright.plan.accounting.budget import Draft, is_capex, is_monthly, judge_limit
from archwright.plan.accounting.cash_flow import Term
from archwright.plan.accounting.fleet import Where
from archwright.plan.accounting.provenance import Ledger
from archwright.plan.capacity.quotas import judge_capacity
from archwright.plan.capacity.served_load import Served, Working
from archwright.plan.cost.operating_costs import Running, running
from archwright.plan.options.pool_writer import Part, Serving, places


class Built(NamedTuple):
    """A draft, what of it its predictions need (`served`: where that is resolved already), what its sizes assume."""

    draft: Draft
    serving: tuple[Serving | Working, ...] = ()
    assumptions: tuple[str, ...] = ()
    served: tuple[Served, ...] = ()


class Assembler:
    """Knows what every option of a plan shares."""

    def __init__(self, needs: Needs, catalog: Catalog, ledger: Ledger) -> None:
        self._needs, self._catalog, self._ledger = needs, catalog, ledger

    def built(self, draft: Draft, part: Part, where: tuple[Where, ...], *, whole: bool) -> Built:
        """`draft` says name, placement, provider and regions; `whole`: every workload has its place, so there is a
        price. The first of `where` is the option's main place.
        """
        scarce, said = judge_capacity(part.fleets, self._catalog)
        draft = draft._replace(
            pools=part.pools,
            models=part.models,
            purchases=part.purchases,
            fleets=part.fleets,
            misses=tuple(dict.fromkeys((*draft.misses, *part.misses, *scarce))),
            notes=tuple(dict.fromkeys((*draft.notes, *said, *part.notes))),
        )
        if not whole:
            return Built(draft, part.serving, part.assumptions)
        every = tuple(dict.fromkeys((*where, *places(part.fleets))))
        found = running(self._needs, self._catalog, self._ledger, part.fleets, every, part.models)
        misses, notes = list(draft.misses), [*draft.notes, *found.notes]
        self._judge_house(where, found, misses, notes)
        draft = draft._replace(
            terms=(*part.terms, *found.terms),
            power_kw=found.power_kw,
            rack_units=found.rack_units,
            energy_kwh_per_month=found.energy_kwh_per_month,
            carbon_kg_per_month=found.carbon_kg_per_month,
            misses=tuple(misses),
            notes=tuple(notes),
        )
        return Built(draft, part.serving, part.assumptions)

    def _judge_house(self, where: tuple[Where, ...], found: Running, misses: list[Miss], notes: list[str]) -> None:
        """The site's own limits: sites of workloads have theirs, judged there."""
        site = self._needs.placement.site
        for place in found.places:
            if site is None or place.where not in where:
                continue
            judge_limit("power_kw", place.power_kw, site.power_kw, misses, notes)
            if site.rack_units is not None and place.rack_units > site.rack_units:
                misses.append(Miss(constraint="rack_units", value=place.rack_units, limit=site.rack_units))


def monthly_usd(terms: tuple[Term, ...]) -> float:
    """What counts against the monthly limit, mean over the horizon."""
    return sum(term.sum / len(term.flow) for term in terms if is_monthly(term))


def capex_usd(terms: tuple[Term, ...]) -> float:
    return sum(term.sum for term in terms if is_capex(term))
