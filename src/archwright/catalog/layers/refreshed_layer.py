"""The refreshed layer: current facts of public sources, laid over the shipped rows.

One file per generation, written whole and then named as the current one. Prices are columns beside a table of machine
types, so 100,000 of them load in a fraction of a second.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from archwright.catalog.tables.cost_records import StoragePrice
from archwright.catalog.tables.records import Accelerator, EnergyTariff, HostedModel, ModelSpec, Offer, QualityScore
from archwright.contract.record import Record, as_dict, replace
from archwright.errors import CatalogError, ErrorLocation
from archwright.home import write_atomic

CURRENT_FILE = "current"
FILE_SUFFIX = ".msgpack"
GENERATION = re.compile(r"\d{4,}")
# Generations kept: the current one and those a rollback may go back to.
GENERATIONS_TO_KEEP = 4
DISCOUNTED = ("spot_usd_per_hour", "commit_1y_usd_per_hour", "commit_3y_usd_per_hour")
# Sources round to four or five digits.
ROUNDING = 5e-4


class MachineType(Record):
    """What a machine type is, wherever it stands."""

    provider: str
    instance_type: str
    accelerator: str | None
    accelerator_count: int
    accelerator_share: float
    vcpu: int
    ram_bytes: int
    arch: str
    local_nvme_bytes: int | None
    network_bytes_per_s: float | None
    network_note: str
    source: str
    as_of: str


class RegionLocation(Record):
    region: str
    geo: str


class PriceOrigin(Record):
    """Where prices were read, and when."""

    source: str
    as_of: str


class ProviderPrices(Record):
    """List and spot prices of one provider, by column; the whole numbers are places in the tables beside it."""

    machines: tuple[MachineType, ...] = ()
    places: tuple[RegionLocation, ...] = ()
    origins: tuple[PriceOrigin, ...] = ()
    machine: list[int] = []
    place: list[int] = []
    origin: list[int] = []
    on_demand: list[float] = []
    spot: list[float | None] = []
    commit_1y: list[float | None] = []
    commit_3y: list[float | None] = []


class GridCarbon(Record):
    country: str
    gco2_per_kwh: float
    year: str
    source: str


class RefreshedLayer(Record):
    """Everything a refresh has brought so far."""

    made_at: str = ""
    prices: dict[str, ProviderPrices] = {}
    hosted: tuple[HostedModel, ...] = ()
    storage: tuple[StoragePrice, ...] = ()
    grid: tuple[GridCarbon, ...] = ()
    tariffs: tuple[EnergyTariff, ...] = ()
    scores: tuple[QualityScore, ...] = ()
    models: tuple[ModelSpec, ...] = ()
    accelerators: tuple[Accelerator, ...] = ()


def expand_offers(prices: ProviderPrices) -> Iterator[Offer]:
    """The offers of one provider; a source without a date is recalled like any other."""
    builds = [as_dict(machine) for machine in prices.machines]
    for build in builds:
        build["spec_source"], build["spec_as_of"] = build.pop("source"), build.pop("as_of")
    for number, machine_at in enumerate(prices.machine):
        machine, place = prices.machines[machine_at], prices.places[prices.place[number]]
        origin = prices.origins[prices.origin[number]]
        yield Offer(
            **builds[machine_at],
            id=f"{machine.provider}:{place.region}:{machine.instance_type}",
            region=place.region,
            geo=place.geo,
            on_demand_usd_per_hour=prices.on_demand[number],
            spot_usd_per_hour=prices.spot[number],
            commit_1y_usd_per_hour=prices.commit_1y[number] if prices.commit_1y else None,
            commit_3y_usd_per_hour=prices.commit_3y[number] if prices.commit_3y else None,
            price_kind="list",
            source=origin.source,
            as_of=origin.as_of,
            confidence="high" if origin.as_of else "recalled",
        )


def is_same_price(one: float | None, other: float | None) -> bool:
    """Whether two prices are one, rounded differently."""
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=ROUNDING)


def overlay_offer(below: Offer, newer: Offer) -> Offer:
    """`newer` with what only `below` states: the spot and committed prices of an unchanged list price."""
    if not is_same_price(newer.on_demand_usd_per_hour, below.on_demand_usd_per_hour):
        return newer
    kept = {name: getattr(below, name) for name in DISCOUNTED if getattr(newer, name) is None}
    return replace(newer, **kept)


def current_generation(folder: Path) -> Path | None:
    """The file in force; None before the first refresh."""
    name = _current_name(folder)
    return None if name is None else folder / f"{name}{FILE_SUFFIX}"


def _current_name(folder: Path) -> str | None:
    try:
        name = (folder / CURRENT_FILE).read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return name if GENERATION.fullmatch(name) else None


def read_generation(path: Path) -> RefreshedLayer:
    """Raises CatalogError AW-CAT-07 for a file that is gone or of another version."""
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=RefreshedLayer)
    except (OSError, ValueError) as error:
        message, where = f"the refreshed facts cannot be read: {error}", ErrorLocation(str(path))
        hint = "archwright catalog refresh --from DIR again, or --rollback"
        raise CatalogError("AW-CAT-07", message, where=where, hint=hint) from error


def write_generation(folder: Path, made: RefreshedLayer) -> str:
    """Keep `made` as a new generation and switch to it; returns its name. What was in force stays for a rollback."""
    taken, now = _list_generations(folder), int(_current_name(folder) or 0)
    for undone in (name for name in taken if int(name) > now):
        # A rollback left it behind: going back again must not bring it.
        (folder / f"{undone}{FILE_SUFFIX}").unlink(missing_ok=True)
    name = f"{int(taken[-1]) + 1 if taken else 1:04d}"
    write_atomic(folder / f"{name}{FILE_SUFFIX}", msgspec.msgpack.encode(made))
    write_atomic(folder / CURRENT_FILE, name.encode())
    for old in _list_generations(folder)[:-GENERATIONS_TO_KEEP]:
        (folder / f"{old}{FILE_SUFFIX}").unlink(missing_ok=True)
    return name


def roll_back(folder: Path) -> str:
    """Switch to the generation before; returns its name, empty for none. Raises CatalogError AW-CAT-08."""
    name = _current_name(folder)
    if name is None:
        where = ErrorLocation(str(folder))
        raise CatalogError("AW-CAT-08", "nothing was refreshed", where=where, hint="catalog refresh first")
    before = [other for other in _list_generations(folder) if int(other) < int(name)]
    if not before:
        (folder / CURRENT_FILE).unlink()
        return ""
    write_atomic(folder / CURRENT_FILE, before[-1].encode())
    return before[-1]


def _list_generations(folder: Path) -> list[str]:
    names = [path.name.removesuffix(FILE_SUFFIX) for path in folder.glob(f"*{FILE_SUFFIX}")]
    return sorted((name for name in names if GENERATION.fullmatch(name)), key=int)
