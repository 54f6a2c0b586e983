"""`catalog diff`: what the refreshed layer changes against the rows below it, and which plans rest on what changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from archwright.catalog.catalog import Catalog
from archwright.catalog.layers import refreshed_layer
from archwright.catalog.refresh.fact_view import figures
from archwright.contract.plan import Plan
from archwright.contract.record import Record

# What a second source says is no figure of the fact itself.
SECOND = "second_"
# Beside offers, what a refresh may change.
TABLES = ("hosted", "storage_prices", "tariffs", "scores", "models", "accelerators")


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
        for offer in refreshed_layer.offers(prices):
            if offer.id in below:
                yield from _moved(offer.id, below[offer.id], refreshed_layer.over(below[offer.id], offer))
    for table in TABLES:
        newer, older = catalog.below_user.named(table), catalog.shipped_alone.named(table)
        for name, row in newer.items():
            if name in older and row != older[name]:
                yield from _moved(name, older[name], row)


def _moved(name: str, before: Record, after: Record) -> Iterator[Change]:
    new = {figure.name: figure.value for figure in figures(after)}
    for figure in figures(before):
        value = new.get(figure.name)
        if not figure.name.startswith(SECOND) and not refreshed_layer.same(value, figure.value):
            yield Change(
                fact=name,
                figure=figure.name,
                unit=figure.unit,
                before=figure.value,
                after=value,
                source=str(getattr(after, "source", "")),
            )


def _added(catalog: Catalog) -> Counter[str]:
    found: Counter[str] = Counter()
    for provider in catalog.latest.prices:
        known = {*catalog.derived_offers.get(provider, {}), *catalog.shipped_offers.get(provider, {})}
        found[f"offers {provider}"] = len(catalog.refreshed_offers(provider) - known)
    for table in TABLES:
        older = catalog.shipped_alone.named(table)
        new = (row for name, row in catalog.below_user.named(table).items() if name not in older)
        found.update(f"{table} {getattr(row, 'provider', '')}".strip() for row in new)
    return +found


def _of_plan(name: str, plan: Plan, touched: Iterable[str]) -> PlanChange | None:
    """A basis names a fact as `provider:region:type: ...` or `provider model: ...`."""
    said = [fact for basis in plan.bases for fact in basis.facts]
    words = {fact: (f"{fact}:", f"{fact.replace(':', ' ', 1)}:") for fact in touched}
    found = sorted(fact for fact, forms in words.items() if any(text.startswith(forms) for text in said))
    return PlanChange(plan=name, organisation=plan.organisation, facts=tuple(found)) if found else None
