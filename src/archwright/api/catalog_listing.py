"""The rows of `catalog list`: accelerators, models, offers or machines to buy, filtered and sorted."""

import difflib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables import cost_records, records
from archwright.contract.record import Record
from archwright.errors import CatalogError, UsageError, argument_error

GIB, GIGA, TERA, BILLION = 2.0**30, 1e9, 1e12, 1e9


class CatalogFilters(Record):
    """Conditions on the listed rows. `max_usd`: per hour for offers, of a purchase for nodes; `limit`: rows shown.

    `fresh`: only rows whose price decides between options, or whose fact is fresh or ageing.
    """

    vendor: str | None = None
    provider: str | None = None
    place: str | None = None
    accelerator: str | None = None
    licence: str | None = None
    min_memory_gib: float | None = None
    max_usd: float | None = None
    fresh: bool = False
    limit: int = 30


class ListedRow(Record):
    """`freshness`: by the time to live of its class; `confidence`: that of its source."""

    id: str
    as_of: str
    freshness: str
    confidence: str


class ListedAccelerator(ListedRow):
    """`planned`: an engine of the catalog runs on it. `from_usd_per_hour`: the lowest valid price of one in a cloud."""

    vendor: str
    memory_gib: float
    memory_gb_per_s: float
    bf16_tflops: float | None
    planned: bool
    from_usd_per_hour: float | None


class ListedModel(ListedRow):
    """Parameters in billions: all, and those that one token uses."""

    parameters: float
    active: float
    context_tokens: int
    licence: str
    commercial_use: str


class ListedOffer(ListedRow):
    """`memory_gib`: of all accelerators. `decides`: the price is dated and has not expired, so that it may win."""

    country: str
    accelerators: str
    memory_gib: float
    vcpu: int
    usd_per_hour: float | None
    decides: bool


class ListedNode(ListedRow):
    """`usd_low`, `usd_high`: the lowest and highest quote. `decides`: as of an offer."""

    form: str
    accelerators: str
    memory_gib: float
    usd_low: float
    usd: float
    usd_high: float
    decides: bool


class CatalogListing(Record):
    """`total`: rows that fit. `removed_by`: filters without which some row would fit, if none does."""

    table: str
    rows: tuple[ListedRow, ...]
    total: int
    removed_by: tuple[str, ...] = ()


class ListedTable(NamedTuple):
    """How a table is read, shown and sorted, and its filters: name -> test of a row."""

    rows: Callable[[Catalog], Iterable[Any]]
    show: Callable[[Catalog, Any], ListedRow]
    order: Callable[[Any], tuple[Any, ...]]
    filters: dict[str, Callable[[Catalog, Any, Any], bool]]


def list_catalog(catalog: Catalog, table: str, filters: CatalogFilters) -> CatalogListing:
    """Raises UsageError AW-USE-74 (an unknown table or name), AW-USE-75 (a filter of another table, no rows asked)."""
    if filters.limit < 1:
        raise argument_error("AW-USE-75", f"the limit is {filters.limit}", "limit", "ask for at least 1 row")
    listed = TABLES.get(table)
    if listed is None:
        raise _unknown_name("table", table, TABLES)
    given = {name: value for name in FILTERS if (value := getattr(filters, name)) not in (None, False)}
    for name in given:
        if name not in listed.filters:
            others = [other for other, one in TABLES.items() if name in one.filters]
            hint = f"leave it out, or list {' or '.join(others)}"
            raise argument_error("AW-USE-75", f"{table} cannot be filtered by {name}", name, hint)
    given = {name: _resolve_value(catalog, name, value) for name, value in given.items()}
    every = list(listed.rows(catalog))

    def select(without: str = "") -> list[Any]:
        tests = [(listed.filters[name], value) for name, value in given.items() if name != without]
        return [row for row in every if all(test(catalog, row, value) for test, value in tests)]

    found = select()
    removed_by = tuple(name for name in given if not found and select(without=name)) or (() if found else tuple(given))
    rows = sorted((listed.show(catalog, row) for row in found), key=listed.order)
    return CatalogListing(table=table, rows=tuple(rows[: filters.limit]), total=len(rows), removed_by=removed_by)


def _resolve_value(catalog: Catalog, name: str, value: Any) -> Any:
    """Return the value as the filter compares it. Raises UsageError AW-USE-74 with the nearest spellings."""
    if name == "accelerator":
        try:
            return catalog.accelerator_ids((value,)) or frozenset({catalog.accelerator(value).id})
        except CatalogError as error:
            raise _unknown_name(name, value, error.nearest or catalog.accelerators) from error
    known: dict[str, Iterable[str]] = {}
    if name == "vendor":
        known = {name: {row.vendor for row in catalog.accelerators.values()}}
    elif name == "licence":
        known = {name: {row.licence for row in catalog.models.values()}}
    elif name == "provider":
        known = {name: catalog.cloud_providers}
    elif name == "place":
        known = {name: catalog.places}
    if name not in known:
        return value
    spelled = {one.lower(): one for one in known[name]}
    if value.lower() not in spelled:
        raise _unknown_name(name, value, spelled.values())
    return spelled[value.lower()]


def _unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    spelled = {one.lower(): one for one in known}
    near = tuple(spelled[one] for one in difflib.get_close_matches(name.lower(), spelled, 3, 0.4))
    hint = f"did you mean {' or '.join(near)}?" if near else f"use one of {', '.join(sorted(spelled.values())[:12])}"
    return argument_error("AW-USE-74", f"the catalog has no {kind} {name!r}", kind, hint, near)


def _describe(catalog: Catalog, row: records.Fact, name: str) -> dict[str, str]:
    state = catalog.freshness(row)
    return {"id": name, "as_of": row.as_of, "freshness": state, "confidence": row.confidence}


def _device_memory_gib(catalog: Catalog, row: records.Offer | cost_records.ServerSpec) -> float:
    device = catalog.accelerators.get(row.accelerator or "")
    share = row.accelerator_share if isinstance(row, records.Offer) else 1.0
    return 0.0 if device is None else round(device.memory_bytes / GIB * row.accelerator_count * share, 1)


def _name_accelerators(row: records.Offer | cost_records.ServerSpec) -> str:
    return f"{row.accelerator_count} x {row.accelerator}" if row.accelerator is not None else ""


def _show_accelerator(catalog: Catalog, row: records.Accelerator) -> ListedAccelerator:
    bf16 = row.flops.get("bf16") or row.flops.get("fp16")
    return ListedAccelerator(
        **_describe(catalog, row, row.id),
        vendor=row.vendor,
        memory_gib=round(row.memory_bytes / GIB, 1),
        memory_gb_per_s=round(row.memory_bandwidth_bytes_per_s / GIGA),
        bf16_tflops=None if bf16 is None else round(bf16 / TERA, 1),
        planned=any(engine.kind == row.kind for engine in catalog.engines.values()),
        from_usd_per_hour=_lowest_prices(catalog).get(row.id),
    )


def _lowest_prices(catalog: Catalog) -> dict[str, float]:
    """Return the lowest list price of one accelerator by id; as dated and certain as plans demand."""
    found: dict[str, float] = {}
    for provider in catalog.cloud_providers:
        for offer in catalog.sold_offers(provider):
            if offer.accelerator is not None and offer.on_demand_usd_per_hour is not None:
                each = round(offer.on_demand_usd_per_hour / offer.accelerator_count, 3)
                found[offer.accelerator] = min(each, found.get(offer.accelerator, each))
    return found


def _show_model(catalog: Catalog, row: records.ModelSpec) -> ListedModel:
    return ListedModel(
        **_describe(catalog, row, row.id),
        parameters=round(row.parameters / BILLION, 2),
        active=round(row.active_parameters / BILLION, 2),
        context_tokens=row.context_tokens,
        licence=row.licence,
        commercial_use=row.commercial_use,
    )


def _show_offer(catalog: Catalog, row: records.Offer) -> ListedOffer:
    place = catalog.region(row.provider, row.region)
    return ListedOffer(
        **_describe(catalog, row, row.id),
        country=place.country if place is not None else "",
        accelerators=_name_accelerators(row),
        memory_gib=_device_memory_gib(catalog, row),
        vcpu=row.vcpu,
        usd_per_hour=row.on_demand_usd_per_hour,
        decides=catalog.has_valid_price(row),
    )


def _show_node(catalog: Catalog, row: cost_records.ServerSpec) -> ListedNode:
    return ListedNode(
        **_describe(catalog, row, row.id),
        form=row.form,
        accelerators=_name_accelerators(row),
        memory_gib=_device_memory_gib(catalog, row),
        usd_low=row.price_low_usd,
        usd=row.price_usd,
        usd_high=row.price_high_usd,
        decides=catalog.has_valid_price(row),
    )


def _is_sold_in(catalog: Catalog, row: records.Offer, place: str) -> bool:
    region = catalog.region(row.provider, row.region)
    return region is not None and (row.region == place or catalog.is_inside(region.country, place))


MACHINE_FILTERS: dict[str, Callable[[Catalog, Any, Any], bool]] = {
    "accelerator": lambda _, row, ids: row.accelerator in ids,
    "min_memory_gib": lambda catalog, row, least: _device_memory_gib(catalog, row) >= least,
    "fresh": lambda catalog, row, _: catalog.has_valid_price(row),
}
TABLES: dict[str, ListedTable] = {
    "accelerators": ListedTable(
        lambda catalog: (row for row in catalog.accelerators.values() if row.kind != "cpu"),
        _show_accelerator,
        lambda row: (-row.memory_gib, -row.memory_gb_per_s, row.id),
        {
            "vendor": lambda _, row, name: row.vendor == name,
            "min_memory_gib": lambda _, row, least: row.memory_bytes / GIB >= least,
            "fresh": lambda catalog, row, _: catalog.freshness(row) in ("fresh", "ageing"),
        },
    ),
    "models": ListedTable(
        lambda catalog: catalog.models.values(),
        _show_model,
        lambda row: (-row.parameters, row.id),
        {"licence": lambda _, row, name: row.licence == name},
    ),
    "offers": ListedTable(
        lambda catalog: catalog.offers,
        _show_offer,
        lambda row: (row.usd_per_hour or 0.0, row.id),
        {
            **MACHINE_FILTERS,
            "provider": lambda _, row, name: row.provider == name,
            "place": _is_sold_in,
            "max_usd": lambda _, row, most: (row.on_demand_usd_per_hour or 0.0) <= most,
        },
    ),
    "nodes": ListedTable(
        lambda catalog: catalog.nodes.values(),
        _show_node,
        lambda row: (row.usd, row.id),
        {**MACHINE_FILTERS, "max_usd": lambda _, row, most: row.price_usd <= most},
    ),
}
FILTERS = tuple(name for name in CatalogFilters.__struct_fields__ if name != "limit")
