"""`catalog diff`: changes of the refreshed layer against lower layers, and the plans that use them."""

from collections import Counter
from collections.abc import Iterator

from archwright.catalog.catalog import Catalog
from archwright.catalog.layers.refreshed_layer import expand_offers, is_same_price, overlay_offer
from archwright.catalog.refresh.fact_view import list_figures
from archwright.contract.plan import Plan
from archwright.contract.record import Record

# The tables that a refresh can change, in addition to offers.
REFRESHED_TABLES = ("hosted", "storage_prices", "tariffs", "scores", "models", "accelerators")


class FigureChange(Record):
    """One figure that a refresh has changed. `after` is None if the figure is no longer stated."""

    fact: str
    figure: str
    unit: str
    before: float
    after: float | None
    source: str


class PlanChange(Record):
    """A plan with bases of changed `facts`: a new plan would differ."""

    plan: str
    organisation: str
    facts: tuple[str, ...]


class CatalogDiff(Record):
    """`added` counts new facts by table and provider."""

    refreshed_on: str
    changes: tuple[FigureChange, ...]
    added: dict[str, int]
    plans: tuple[PlanChange, ...] = ()


def diff_catalog(catalog: Catalog, plans: dict[str, Plan]) -> CatalogDiff:
    """Compare layers; `plans` maps file names to plans."""
    changes = tuple(sorted(_figure_changes(catalog), key=lambda change: (change.fact, change.figure)))
    # A basis names a fact as `provider:region:type: ...` or `provider model: ...`.
    forms = {fact: (f"{fact}:", f"{fact.replace(':', ' ', 1)}:") for fact in {change.fact for change in changes}}
    affected = []
    for name, plan in plans.items():
        texts = [text for basis in plan.bases for text in basis.facts]
        facts = sorted(fact for fact, starts in forms.items() if any(text.startswith(starts) for text in texts))
        if facts:
            affected.append(PlanChange(plan=name, organisation=plan.organisation, facts=tuple(facts)))
    return CatalogDiff(
        refreshed_on=catalog.refreshed_layer.made_at,
        changes=changes,
        added=dict(sorted(_count_new_facts(catalog).items())),
        plans=tuple(affected),
    )


def _figure_changes(catalog: Catalog) -> Iterator[FigureChange]:
    for provider, prices in catalog.refreshed_layer.prices.items():
        below = {**catalog.derived_offers.get(provider, {}), **catalog.shipped_offers.get(provider, {})}
        for offer in expand_offers(prices):
            if offer.id in below:
                yield from _compare_rows(offer.id, below[offer.id], overlay_offer(below[offer.id], offer))
    for table in REFRESHED_TABLES:
        newer, older = catalog.without_user_overlay.rows_by_name(table), catalog.packaged_only.rows_by_name(table)
        for name, row in newer.items():
            if name in older and row != older[name]:
                yield from _compare_rows(name, older[name], row)


def _compare_rows(name: str, before: Record, after: Record) -> Iterator[FigureChange]:
    new, source = {figure.name: figure.value for figure in list_figures(after)}, str(getattr(after, "source", ""))
    for figure in list_figures(before):
        value = new.get(figure.name)
        # The price of a second source is not a figure of the fact itself.
        if not figure.name.startswith("second_") and not is_same_price(value, figure.value):
            kind, unit, old = figure.name, figure.unit, figure.value
            yield FigureChange(fact=name, figure=kind, unit=unit, before=old, after=value, source=source)


def _count_new_facts(catalog: Catalog) -> Counter[str]:
    found: Counter[str] = Counter()
    for provider in catalog.refreshed_layer.prices:
        known = {*catalog.derived_offers.get(provider, {}), *catalog.shipped_offers.get(provider, {})}
        found[f"offers {provider}"] = len(catalog.refreshed_offers(provider) - known)
    for table in REFRESHED_TABLES:
        older = catalog.packaged_only.rows_by_name(table)
        new = (row for name, row in catalog.without_user_overlay.rows_by_name(table).items() if name not in older)
        found.update(f"{table} {getattr(row, 'provider', '')}".strip() for row in new)
    return +found
