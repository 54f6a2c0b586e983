"""`catalog diff`: what the refreshed layer changes against the rows below it, and which plans rest on what changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from archwright.catalog import refreshed, rows
from archwright.catalog.facts import Catalog
from archwright.catalog.figures import figures
from archwright.catalog.provenance import name_of
from archwright.contract.plan import Plan
from archwright.contract.record import Record

# What a second source says is no figure of the fact itself.
SECOND = "second_"


class Change(Record):
    """One figure that a refresh has changed. `after` is None where it is stated no more."""

    fact: str
    figure: str
    unit: str
    before: float
    after: float | None
    source: str


class PlanChange(Record):
    """A plan whose bases name changed facts; `facts` are these. It would come out differently."""

    plan: str
    organisation: str
    facts: tuple[str, ...]


class CatalogDiff(Record):
    """`added` counts new facts by table and provider."""

    refreshed_on: str
    changes: tuple[Change, ...]
    added: dict[str, int]
    plans: tuple[PlanChange, ...] = ()


def diff(catalog: Catalog, plans: dict[str, Plan]) -> CatalogDiff:
    """`plans` by the name of their file."""
    changes = tuple(sorted(_changes(catalog), key=lambda change: (change.fact, change.figure)))
    touched = {change.fact for change in changes}
    return CatalogDiff(
        refreshed_on=catalog.latest.made_at,
        changes=changes,
        added=dict(sorted(_added(catalog).items())),
        plans=tuple(change for name, plan in plans.items() if (change := _of_plan(name, plan, touched)) is not None),
    )


def _changes(catalog: Catalog) -> Iterator[Change]:
    for provider, prices in catalog.latest.prices.items():
        below = {**catalog.derived_offers.get(provider, {}), **catalog.shipped_offers.get(provider, {})}
        for offer in refreshed.offers(prices):
            if offer.id in below:
                yield from _moved(offer.id, below[offer.id], refreshed.over(below[offer.id], offer))
    models = {name_of(row): row for row in catalog.shipped_hosted}
    for model in catalog.latest.hosted:
        if name_of(model) in models:
            yield from _moved(name_of(model), models[name_of(model)], model)
    stored = {_tier(row): row for row in catalog.shipped_storage_prices}
    for price in catalog.latest.storage:
        if _tier(price) in stored:
            yield from _moved(name_of(price), stored[_tier(price)], price)
    grids = {row.country: row for row in catalog.shipped_tariffs if not row.area}
    for tariff in catalog.tariffs:
        if not tariff.area and tariff.country in grids:
            yield from _moved(name_of(tariff), grids[tariff.country], tariff)


def _tier(row: object) -> tuple[object, ...]:
    return tuple(getattr(row, name) for name in ("provider", "kind", "item", "from_bytes"))


def _moved(name: str, before: rows.Fact, after: rows.Fact) -> Iterator[Change]:
    new = {figure.name: figure.value for figure in figures(after)}
    for figure in figures(before):
        value = new.get(figure.name)
        if not figure.name.startswith(SECOND) and not refreshed.same(value, figure.value):
            yield Change(
                fact=name, figure=figure.name, unit=figure.unit, before=figure.value, after=value, source=after.source
            )


def _added(catalog: Catalog) -> Counter[str]:
    found: Counter[str] = Counter()
    for provider in catalog.latest.prices:
        known = {*catalog.derived_offers.get(provider, {}), *catalog.shipped_offers.get(provider, {})}
        found[f"offers {provider}"] = len(catalog.refreshed_offers(provider) - known)
    known_models = {name_of(row) for row in catalog.shipped_hosted}
    found.update(f"hosted {row.provider}" for row in catalog.latest.hosted if name_of(row) not in known_models)
    known_tiers = {_tier(row) for row in catalog.shipped_storage_prices}
    found.update(f"storage {row.provider}" for row in catalog.latest.storage if _tier(row) not in known_tiers)
    known_grids = {row.country for row in catalog.shipped_tariffs}
    found["grid carbon"] = sum(row.country not in known_grids for row in catalog.latest.grid)
    return +found


def _of_plan(name: str, plan: Plan, touched: Iterable[str]) -> PlanChange | None:
    """A basis names a fact as `provider:region:type: ...` or `provider model: ...`."""
    said = [fact for basis in plan.bases for fact in basis.facts]
    words = {fact: (f"{fact}:", f"{fact.replace(':', ' ', 1)}:") for fact in touched}
    found = sorted(fact for fact, forms in words.items() if any(text.startswith(forms) for text in said))
    return PlanChange(plan=name, organisation=plan.organisation, facts=tuple(found)) if found else None
