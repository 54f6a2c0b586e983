"""Options at clouds: rented machines run by oneself, or by the cloud's managed platform at its surcharge.

Every allowed cloud gives an option; one per provider with a surcharge row gives a second one, at on-demand prices:
what a platform asks for promised machines no row says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from archwright.catalog.cost_rows import Surcharge
from archwright.contract.estimate import Estimate
from archwright.plan.assemble import Built
from archwright.plan.candidates import Task
from archwright.plan.fleet import Where
from archwright.plan.house import World
from archwright.plan.ledger import Ledger
from archwright.plan.money import Draft
from archwright.plan.parts import Part, joined, places
from archwright.plan.rented import Found, Renter
from archwright.plan.sites import at_sites, nowhere_else
from archwright.plan.terms import Term

DEFAULT_CLOUDS = 3


def clouds_of(world: World, ledger: Ledger) -> tuple[str, ...]:
    """The clouds the needs name, else those with the most offers in the catalog."""
    sold = Counter(offer.provider for offer in world.catalog.offers)
    named = world.needs.placement.clouds
    if named is not None:
        return tuple(sorted(provider for provider in named if provider in sold))
    largest = tuple(sorted(name for name, _ in sold.most_common(DEFAULT_CLOUDS)))
    ledger.assume(f"placement.clouds: {', '.join(largest)}, the clouds with the most offers in the catalog")
    return largest


class CloudPlanner:
    def __init__(self, world: World, ledger: Ledger, tasks: tuple[Task, ...]) -> None:
        self._world, self._ledger, self._tasks = world, ledger, tasks
        self._listed = Renter(world.needs, world.catalog, world.sizer, promises=False)

    def options(self, providers: tuple[str, ...]) -> Iterable[Built]:
        for provider in providers:
            draft = Draft(f"cloud-{provider}", "cloud", provider)
            yield self._option(draft, self._world.renter.find(provider, self._tasks))
        for provider in providers:
            for row in self._surcharges(provider):
                yield self._managed(provider, row)

    def _option(self, draft: Draft, found: Found, extra: tuple[Term, ...] = ()) -> Built:
        part = joined(self._world.writer.rented(pick) for pick in found.picks)
        part = part._replace(terms=(*part.terms, *extra), notes=(*found.notes, *part.notes))
        missing = tuple(nowhere_else(task, "a cloud region") for task in self._tasks if at_sites(task))
        regions = tuple(sorted({place.region for place in places(part.fleets)}))
        draft = draft._replace(regions=regions, misses=(*found.misses, *missing), notes=_spread(regions))
        return self._world.assembler.built(draft, part, main_first(part), whole=len(found.picks) == len(self._tasks))

    def _surcharges(self, provider: str) -> tuple[Surcharge, ...]:
        """Managed platforms of the provider that take a share on top of the machines."""
        rows = self._world.catalog.surcharges
        return tuple(row for row in rows if row.platform.split()[0].lower() == provider and row.low is not None)[:1]

    def _managed(self, provider: str, row: Surcharge) -> Built:
        draft = Draft(f"managed-{provider}", "cloud", provider)
        found = self._listed.find(provider, self._tasks)
        part = joined(self._world.writer.rented(pick) for pick in found.picks)
        low, high = row.low or 0.0, row.high or 0.0
        built = self._option(draft, found, self._extra(part, row, (low, high)))
        said = f"{row.platform}: {low:.0%} to {high:.0%} on top of the machines ({row.source}); on-demand prices only"
        return built._replace(draft=built.draft._replace(notes=(said, *built.draft.notes)))

    def _extra(self, part: Part, row: Surcharge, shares: tuple[float, float]) -> tuple[Term, ...]:
        low, high = shares
        if high <= 0:
            return ()
        share = (low + high) / 2
        basis = self._ledger.basis(
            f"surcharge.{row.platform}".replace(" ", "-").lower(),
            "quoted",
            "share on top of the machines' price that the managed platform takes",
            facts=(f"{row.platform}, {row.component}: {row.source}, {row.as_of or 'undated'}",),
        )
        driver = self._ledger.drive(Estimate(value=share, low=low or share / 2, high=high, unit="share", basis=basis))
        return tuple(
            Term(
                f"{row.platform} on {term.line}",
                "platform",
                tuple(usd * share for usd in term.flow),
                (*term.drivers, driver),
            )
            for term in part.terms
        )


def main_first(part: Part) -> tuple[Where, ...]:
    """The place with the most machines first: there the platform itself and its data are."""
    weight = Counter[Where]()
    for fleet in part.fleets:
        weight[fleet.where] += round(sum(fleet.machines) * 1000)
    return tuple(sorted(places(part.fleets), key=lambda where: (-weight[where], where.region)))


def _spread(regions: tuple[str, ...]) -> tuple[str, ...]:
    if len(regions) < 2:
        return ()
    return (f"spread over {', '.join(regions)}: no single region has the cheapest machine of every workload",)
