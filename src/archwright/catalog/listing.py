"""The rows of `catalog list`: accelerators, devices, models, offers or machines to buy, filtered and sorted."""

import difflib
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.named_devices import NamedDevice, list_named_devices
from archwright.catalog.tables import cost_records, records
from archwright.contract.record import Record, as_dict
from archwright.errors import CatalogError, UsageError, argument_error

GIB = 2.0**30
GIGA = 1e9
TERA = 1e12
BILLION = 1e9
# An error lists at most so many known names.
MOST_NAMES = 12


class CatalogFilters(Record):
    """Conditions on the listed rows. `max_usd`: per hour for offers, of a purchase for nodes; `limit`: rows shown.

    `fresh`: only rows whose price decides between options, or whose fact is fresh or ageing.
    """

    vendor: str | None = None
    provider: str | None = None
    place: str | None = None
    accelerator: str | None = None
    kind: str | None = None
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


class ListedDevice(ListedRow):
    """A device that predictions know by this name. `cores`: of a processor, else None; an instance has a part of it."""

    kind: str
    vendor: str
    cores: int | None
    memory_gib: float | None
    memory_gb_per_s: float


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


SoldMachine = records.Offer | cost_records.ServerSpec
# Tests whether a row of the catalog fits the value of a filter.
RowTest = Callable[[Catalog, Any, Any], bool]
RowTests = dict[str, RowTest]


class ListedTable(NamedTuple):
    """How a table is read, shown and sorted, and its filters by name."""

    rows: Callable[[Catalog], Iterable[Any]]
    show: Callable[[Catalog, Any], ListedRow]
    order: Callable[[Any], tuple[Any, ...]]
    filters: RowTests


class _Condition(NamedTuple):
    """A filter with its value."""

    test: RowTest
    value: Any

    def fits(self, catalog: Catalog, row: Any) -> bool:
        return self.test(catalog, row, self.value)


def list_catalog(catalog: Catalog, table: str, filters: CatalogFilters) -> CatalogListing:
    """Raises UsageError AW-USE-74 (an unknown table or name), AW-USE-75 (a filter of another table, no rows asked)."""
    if filters.limit < 1:
        raise argument_error("AW-USE-75", f"the limit is {filters.limit}", "limit", "ask for at least 1 row")
    listed_table = TABLES.get(table)
    if listed_table is None:
        raise _unknown_name_error("table", table, TABLES)
    conditions = _resolve_filters(catalog, table, filters)
    rows = [*listed_table.rows(catalog)]
    fitting_rows = _select_rows(catalog, rows, conditions.values())
    removed_by: tuple[str, ...] = ()
    if not fitting_rows:
        removed_by = _find_removing_filters(catalog, rows, conditions)
    shown_rows = [listed_table.show(catalog, row) for row in fitting_rows]
    shown_rows.sort(key=listed_table.order)
    first_rows = tuple(shown_rows[: filters.limit])
    return CatalogListing(table=table, rows=first_rows, total=len(shown_rows), removed_by=removed_by)


def _resolve_filters(catalog: Catalog, table: str, filters: CatalogFilters) -> dict[str, _Condition]:
    """Return the stated filters by name. Raises UsageError AW-USE-74 and AW-USE-75."""
    tests = TABLES[table].filters
    values: dict[str, Any] = {}
    for name, value in as_dict(filters).items():
        if name != "limit" and value not in (None, False):
            values[name] = value
    for name in values:
        if name not in tests:
            tables = [other for other, listed_table in TABLES.items() if name in listed_table.filters]
            choices = " or ".join(tables)
            hint = f"leave it out, or list {choices}"
            raise argument_error("AW-USE-75", f"{table} cannot be filtered by {name}", name, hint)

    conditions: dict[str, _Condition] = {}
    for name, value in values.items():
        resolved_value = _resolve_value(catalog, name, value)
        conditions[name] = _Condition(tests[name], resolved_value)
    return conditions


def _select_rows(catalog: Catalog, rows: Iterable[Any], conditions: Iterable[_Condition]) -> list[Any]:
    """Return the rows that fit all conditions."""
    selected_rows = [*rows]
    for condition in conditions:
        selected_rows = [row for row in selected_rows if condition.fits(catalog, row)]
    return selected_rows


def _find_removing_filters(catalog: Catalog, rows: Iterable[Any], conditions: dict[str, _Condition]) -> tuple[str, ...]:
    """Return the filters without which some row would fit; all of them if no single one is enough."""
    names: list[str] = []
    for name in conditions:
        remaining = conditions.copy()
        del remaining[name]
        if _select_rows(catalog, rows, remaining.values()):
            names.append(name)
    return tuple(names or conditions)


def _resolve_value(catalog: Catalog, name: str, value: Any) -> Any:
    """Return the value as the filter compares it. Raises UsageError AW-USE-74 with the nearest spellings."""
    if name == "accelerator":
        return _resolve_accelerator(catalog, value)
    names = _list_known_names(catalog, name)
    if names is None:
        return value
    spellings = _fold_case(names)
    if value.lower() not in spellings:
        raise _unknown_name_error(name, value, spellings.values())
    return spellings[value.lower()]


def _fold_case(names: Iterable[str]) -> dict[str, str]:
    return {name.lower(): name for name in names}


def _resolve_accelerator(catalog: Catalog, name: str) -> frozenset[str]:
    try:
        return catalog.accelerator_ids((name,)) or frozenset({catalog.accelerator(name).id})
    except CatalogError as error:
        raise _unknown_name_error("accelerator", name, error.nearest or catalog.accelerators) from error


def _list_known_names(catalog: Catalog, filter_name: str) -> Iterable[str] | None:
    """Return the names that a filter may have as its value; None if its value is no name."""
    match filter_name:
        case "vendor":
            rows = map(attrgetter("row"), list_named_devices(catalog))
            return set(map(attrgetter("vendor"), rows))
        case "kind":
            return set(map(attrgetter("kind"), list_named_devices(catalog)))
        case "licence":
            return set(map(attrgetter("licence"), catalog.models.values()))
        case "provider":
            return catalog.cloud_providers
        case "place":
            return catalog.places
    return None


def _unknown_name_error(kind: str, name: str, names: Iterable[str]) -> UsageError:
    spellings = _fold_case(names)
    close = difflib.get_close_matches(name.lower(), spellings, 3, 0.4)
    nearest = tuple(map(spellings.__getitem__, close))
    choices = " or ".join(nearest)
    hint = f"did you mean {choices}?"
    if not nearest:
        choices = ", ".join(sorted(spellings.values())[:MOST_NAMES])
        hint = f"use one of {choices}"
    return argument_error("AW-USE-74", f"the catalog has no {kind} {name!r}", kind, hint, nearest)


def _describe(catalog: Catalog, row: records.Fact, row_id: str) -> dict[str, Any]:
    """Return the fields of ListedRow."""
    freshness = catalog.freshness(row)
    return {"id": row_id, "as_of": row.as_of, "freshness": freshness, "confidence": row.confidence}


def _describe_machine(catalog: Catalog, row: SoldMachine) -> dict[str, Any]:
    """Return the fields that offers and nodes share."""
    fields = _describe(catalog, row, row.id)
    fields["accelerators"] = ""
    if row.accelerator is not None:
        fields["accelerators"] = f"{row.accelerator_count} x {row.accelerator}"
    fields["memory_gib"] = _device_memory_gib(catalog, row)
    fields["decides"] = catalog.has_valid_price(row)
    return fields


def _device_memory_gib(catalog: Catalog, row: SoldMachine) -> float:
    """Return the memory of all accelerators of a machine."""
    device = catalog.accelerators.get(row.accelerator or "")
    if device is None:
        return 0.0
    memory_gib = device.memory_bytes / GIB * row.accelerator_count
    if isinstance(row, records.Offer):
        memory_gib *= row.accelerator_share
    return round(memory_gib, 1)


def _read_accelerators(catalog: Catalog) -> Iterable[records.Accelerator]:
    return filter(lambda row: row.kind != "cpu", catalog.accelerators.values())


def _show_accelerator(catalog: Catalog, row: records.Accelerator) -> ListedAccelerator:
    engine_kinds = set(map(attrgetter("kind"), catalog.engines.values()))
    flops = row.flops.get("bf16") or row.flops.get("fp16")
    bf16_tflops = None
    if flops is not None:
        bf16_tflops = round(flops / TERA, 1)
    memory_gib = round(row.memory_bytes / GIB, 1)
    memory_gb_per_s = round(row.memory_bandwidth_bytes_per_s / GIGA)
    lowest_usd = _find_lowest_prices(catalog).get(row.id)
    return ListedAccelerator(
        **_describe(catalog, row, row.id),
        vendor=row.vendor,
        memory_gib=memory_gib,
        memory_gb_per_s=memory_gb_per_s,
        bf16_tflops=bf16_tflops,
        planned=row.kind in engine_kinds,
        from_usd_per_hour=lowest_usd,
    )


def _find_lowest_prices(catalog: Catalog) -> dict[str, float]:
    """Return the lowest list price of one accelerator by id; as dated and certain as plans demand."""
    lowest_usd: dict[str, float] = {}
    for provider in catalog.cloud_providers:
        for offer in catalog.sold_offers(provider):
            machine_usd = offer.on_demand_usd_per_hour
            if offer.accelerator is None or machine_usd is None:
                continue
            usd = round(machine_usd / offer.accelerator_count, 3)
            lowest = lowest_usd.get(offer.accelerator, usd)
            lowest_usd[offer.accelerator] = min(usd, lowest)
    return lowest_usd


def _sort_accelerators(row: ListedAccelerator) -> tuple[Any, ...]:
    return -row.memory_gib, -row.memory_gb_per_s, row.id


def _show_device(catalog: Catalog, device: NamedDevice) -> ListedDevice:
    row = device.row
    memory_gib = None
    if row.memory_bytes:
        memory_gib = round(row.memory_bytes / GIB, 1)
    memory_gb_per_s = round(row.memory_bandwidth_bytes_per_s / GIGA)
    return ListedDevice(
        **_describe(catalog, row, device.name),
        kind=device.kind,
        vendor=row.vendor,
        cores=device.cores or None,
        memory_gib=memory_gib,
        memory_gb_per_s=memory_gb_per_s,
    )


def _sort_devices(row: ListedDevice) -> tuple[Any, ...]:
    return row.kind, row.vendor, row.id


def _is_of_kind(_: Catalog, device: NamedDevice, kind: str) -> bool:
    return device.kind == kind


def _is_device_of_vendor(catalog: Catalog, device: NamedDevice, vendor: str) -> bool:
    return _is_of_vendor(catalog, device.row, vendor)


def _is_device_fresh(catalog: Catalog, device: NamedDevice, fresh: bool) -> bool:
    return _is_fresh(catalog, device.row, fresh)


def _show_model(catalog: Catalog, row: records.ModelSpec) -> ListedModel:
    parameters = round(row.parameters / BILLION, 2)
    active = round(row.active_parameters / BILLION, 2)
    return ListedModel(
        **_describe(catalog, row, row.id),
        parameters=parameters,
        active=active,
        context_tokens=row.context_tokens,
        licence=row.licence,
        commercial_use=row.commercial_use,
    )


def _sort_models(row: ListedModel) -> tuple[Any, ...]:
    return -row.parameters, row.id


def _show_offer(catalog: Catalog, row: records.Offer) -> ListedOffer:
    region = catalog.region(row.provider, row.region)
    country = "" if region is None else region.country
    usd_per_hour = row.on_demand_usd_per_hour
    return ListedOffer(**_describe_machine(catalog, row), country=country, vcpu=row.vcpu, usd_per_hour=usd_per_hour)


def _sort_offers(row: ListedOffer) -> tuple[Any, ...]:
    return row.usd_per_hour or 0.0, row.id


def _show_node(catalog: Catalog, row: cost_records.ServerSpec) -> ListedNode:
    return ListedNode(
        **_describe_machine(catalog, row),
        form=row.form,
        usd_low=row.price_low_usd,
        usd=row.price_usd,
        usd_high=row.price_high_usd,
    )


def _sort_nodes(row: ListedNode) -> tuple[Any, ...]:
    return row.usd, row.id


def _is_of_vendor(_: Catalog, row: records.Accelerator, vendor: str) -> bool:
    return row.vendor == vendor


def _has_memory(_: Catalog, row: records.Accelerator, memory_gib: float) -> bool:
    return row.memory_bytes / GIB >= memory_gib


def _is_fresh(catalog: Catalog, row: records.Accelerator, _: bool) -> bool:
    return catalog.freshness(row) in ("fresh", "ageing")


def _has_licence(_: Catalog, row: records.ModelSpec, licence: str) -> bool:
    return row.licence == licence


def _has_accelerator(_: Catalog, row: SoldMachine, ids: frozenset[str]) -> bool:
    return row.accelerator in ids


def _has_device_memory(catalog: Catalog, row: SoldMachine, memory_gib: float) -> bool:
    return _device_memory_gib(catalog, row) >= memory_gib


def _decides(catalog: Catalog, row: SoldMachine, _: bool) -> bool:
    return catalog.has_valid_price(row)


def _is_of_provider(_: Catalog, row: records.Offer, provider: str) -> bool:
    return row.provider == provider


def _is_sold_in(catalog: Catalog, row: records.Offer, place: str) -> bool:
    region = catalog.region(row.provider, row.region)
    return region is not None and (row.region == place or catalog.is_inside(region.country, place))


def _costs_per_hour(_: Catalog, row: records.Offer, max_usd: float) -> bool:
    return (row.on_demand_usd_per_hour or 0.0) <= max_usd


def _costs_to_buy(_: Catalog, row: cost_records.ServerSpec, max_usd: float) -> bool:
    return row.price_usd <= max_usd


def _read_models(catalog: Catalog) -> Iterable[records.ModelSpec]:
    return catalog.models.values()


def _read_offers(catalog: Catalog) -> Iterable[records.Offer]:
    return catalog.offers


def _read_nodes(catalog: Catalog) -> Iterable[cost_records.ServerSpec]:
    return catalog.nodes.values()


ACCELERATOR_FILTERS: RowTests = {"vendor": _is_of_vendor, "min_memory_gib": _has_memory, "fresh": _is_fresh}
DEVICE_FILTERS: RowTests = {"kind": _is_of_kind, "vendor": _is_device_of_vendor, "fresh": _is_device_fresh}
MACHINE_FILTERS: RowTests = {
    "accelerator": _has_accelerator,
    "min_memory_gib": _has_device_memory,
    "fresh": _decides,
}
OFFER_FILTERS: RowTests = MACHINE_FILTERS | {
    "provider": _is_of_provider,
    "place": _is_sold_in,
    "max_usd": _costs_per_hour,
}
NODE_FILTERS: RowTests = MACHINE_FILTERS | {"max_usd": _costs_to_buy}
TABLES: dict[str, ListedTable] = {}
TABLES["accelerators"] = ListedTable(_read_accelerators, _show_accelerator, _sort_accelerators, ACCELERATOR_FILTERS)
TABLES["devices"] = ListedTable(list_named_devices, _show_device, _sort_devices, DEVICE_FILTERS)
TABLES["models"] = ListedTable(_read_models, _show_model, _sort_models, {"licence": _has_licence})
TABLES["offers"] = ListedTable(_read_offers, _show_offer, _sort_offers, OFFER_FILTERS)
TABLES["nodes"] = ListedTable(_read_nodes, _show_node, _sort_nodes, NODE_FILTERS)
