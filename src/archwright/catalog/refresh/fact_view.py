"""The figures of a fact: each number of a row with its unit, in each layer that states the fact."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

import msgspec

from archwright.catalog.catalog import OVERLAID, Catalog
from archwright.catalog.layers.refreshed_layer import expand_offers
from archwright.catalog.tables.metadata_records import FreshnessState, SourceKind
from archwright.catalog.tables.records import Confidence, Fact, Layer
from archwright.contract.plan import MachineFacts
from archwright.contract.record import Record

# Units, and the ends of the names of their fields; the first match counts. Numbers without a match are counts.
UNIT_SUFFIXES: dict[str, tuple[str, ...]] = {
    "bytes/token": ("bytes_per_token_bf16",),
    "FLOP": ("flops_per_layer", "flops_per_unit"),
    "EUR": ("max_eur",),
    "days": ("days",),
    "bytes/s": ("bytes_per_s",),
    "USD/h": ("usd_per_hour",),
    "USD/token": ("usd_per_token",),
    "USD/kWh": ("usd_per_kwh",),
    "USD/byte": ("usd_per_byte",),
    "g/kWh": ("gco2_per_kwh",),
    "USD": ("usd",),
    "bytes": ("bytes",),
    "tokens": ("tokens", "sliding_window"),
    "months": ("months",),
    "bits": ("bits_per_weight",),
    "FLOP/s": ("flops",),
    "share": ("share", "discount", "quality"),
    "U": ("units",),
    "s": ("_s",),
    "W": ("_w",),
    "h": ("hours",),
}
COUNT_UNIT = "1"
MACHINE, THIS_MACHINE = "machine", "this-machine"
# If several tables have a fact of one name, the first table counts.
TABLE_ORDER = ("models", "accelerators", "offers", "hosted", "engines", "regulations", "parts", "nodes", "artefacts")


class FactFigure(Record):
    name: str
    value: float
    unit: str


class LayerFact(Record):
    layer: Layer
    source: str
    source_kind: SourceKind
    as_of: str
    confidence: Confidence
    freshness: FreshnessState
    figures: tuple[FactFigure, ...]


class FactView(Record):
    """A fact for `catalog show`: the layers that state it, the highest first, and the resulting row."""

    name: str
    table: str
    chain: tuple[LayerFact, ...]
    row: dict[str, object]


def list_figures(row: Record) -> tuple[FactFigure, ...]:
    """Return every number of a row, also one level down (`flops.bf16`)."""
    return tuple(_walk_figures(msgspec.to_builtins(row), "", str(getattr(row, "unit", ""))))


def _walk_figures(fields: dict[str, object], within: str, stated_unit: str) -> Iterator[FactFigure]:
    for name, value in fields.items():
        if isinstance(value, bool):
            continue
        if isinstance(value, int | float):
            unit = stated_unit or unit_of(name, unit_of(within))
            yield FactFigure(name=f"{within}.{name}" if within else name, value=float(value), unit=unit)
        elif isinstance(value, dict) and not within:
            inner = {key: part for key, part in value.items() if key != "level"}
            yield from _walk_figures(inner, name, str(value.get("unit", stated_unit)))


def unit_of(field: str, otherwise: str = COUNT_UNIT) -> str:
    return next((unit for unit, endings in UNIT_SUFFIXES.items() if field.endswith(endings)), otherwise)


def view_fact(catalog: Catalog, table: str, name: str, row: Record) -> FactView:
    """Describe a fact; a record that is not in a table has a chain of one layer."""
    chain = tuple(_describe_layer(catalog, layer, fact) for layer, fact in _stating_layers(catalog, table, name, row))
    return FactView(name=name, table=table, chain=chain, row=msgspec.to_builtins(row))


def _describe_layer(catalog: Catalog, layer: Layer, row: Record) -> LayerFact:
    source, as_of = str(getattr(row, "source", "")), str(getattr(row, "as_of", ""))
    kind: SourceKind = "user" if layer == "user" else catalog.kind_of_source(source)
    confidence: Confidence = row.confidence if isinstance(row, Fact) else "recalled"
    if isinstance(row, MachineFacts):
        source, kind, confidence = "the probe of this machine", "measured", "high"
        as_of = datetime.fromtimestamp(row.probed_at, UTC).date().isoformat()
    return LayerFact(
        layer=layer,
        source=source,
        source_kind=kind,
        as_of=as_of,
        confidence=confidence,
        freshness=catalog.freshness(row) if isinstance(row, Fact) else "fresh",
        figures=list_figures(row),
    )


def _stating_layers(catalog: Catalog, table: str, name: str, row: Record) -> Iterable[tuple[Layer, Record]]:
    """Return the layers from the highest to the lowest, each with its row."""
    found: list[tuple[Layer, Record]] = []
    if name in catalog.user_overlay.overridden_names(table):
        found.append(("user", row))
    if table == MACHINE:
        found.append(("measured", row))
    elif table == "offers":
        found += _offer_layers(catalog, name)
    elif table in OVERLAID:
        newer, older = (
            of.rows_by_name(table).get(name) for of in (catalog.without_user_overlay, catalog.packaged_only)
        )
        found += [("refreshed", newer)] if newer is not None and newer != older else []
        found += [("shipped", older)] if older is not None else []
    return found or [("shipped", row)]


def _offer_layers(catalog: Catalog, name: str) -> Iterator[tuple[Layer, Record]]:
    provider = name.partition(":")[0]
    if name in catalog.refreshed_offers(provider):
        offers = expand_offers(catalog.refreshed_layer.prices[provider])
        yield from (("refreshed", row) for row in offers if row.id == name)
    shipped = catalog.shipped_offers.get(provider, {}).get(name)
    if shipped is not None:
        yield ("derived" if shipped.price_kind == "derived" else "shipped"), shipped
    derived = catalog.derived_offers.get(provider, {}).get(name)
    if derived is not None:
        yield "derived", derived


def named_rows_by_table(catalog: Catalog) -> dict[str, dict[str, Record]]:
    machine = catalog.machine
    found: dict[str, dict[str, Record]] = {} if machine is None else {MACHINE: {THIS_MACHINE: machine}}
    return found | {table: {**catalog.rows_by_name(table)} for table in dict.fromkeys((*TABLE_ORDER, *OVERLAID))}
