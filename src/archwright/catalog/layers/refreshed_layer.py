"""The refreshed layer: current facts of public sources, which override the shipped rows.

One file per generation is written and then named as the current one. Design: prices are columns beside a table of
machine types, so 100,000 of them load in a fraction of a second.
"""

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
# The current generation and those to which a rollback can return.
GENERATIONS_TO_KEEP = 4
DISCOUNTED = ("spot_usd_per_hour", "commit_1y_usd_per_hour", "commit_3y_usd_per_hour")
# Relative tolerance: sources round to four or five digits.
ROUNDING = 5e-4


class MachineType(Record):
    """The build of a machine type, in any region."""

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
    source: str
    as_of: str


class ProviderPrices(Record):
    """Prices of one provider by column; `machine`, `place` and `origin` are indices into the tuples."""

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
    """Yield the offers of one provider; without a date their confidence is `recalled`."""
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
    """True if two prices are equal except for rounding."""
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=ROUNDING)


def overlay_offer(below: Offer, newer: Offer) -> Offer:
    """Return `newer`; if the list price is unchanged, missing spot and committed prices come from `below`."""
    if not is_same_price(newer.on_demand_usd_per_hour, below.on_demand_usd_per_hour):
        return newer
    return replace(newer, **{name: getattr(below, name) for name in DISCOUNTED if getattr(newer, name) is None})


def current_generation(folder: Path) -> Path | None:
    """Return the current file, None before the first refresh."""
    name = _current_name(folder)
    return None if name is None else folder / f"{name}{FILE_SUFFIX}"


def _current_name(folder: Path) -> str | None:
    try:
        name = (folder / CURRENT_FILE).read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return name if GENERATION.fullmatch(name) else None


def read_generation(path: Path) -> RefreshedLayer:
    """Raises CatalogError AW-CAT-07 for a file that is missing or of another version."""
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=RefreshedLayer)
    except (OSError, ValueError) as error:
        message, where = f"the refreshed facts cannot be read: {error}", ErrorLocation(str(path))
        hint = "run archwright catalog refresh --from DIR again, or archwright catalog refresh --rollback"
        raise CatalogError("AW-CAT-07", message, where=where, hint=hint) from error


def write_generation(folder: Path, layer: RefreshedLayer) -> str:
    """Store `layer` as the current generation; return its name. The previous one stays for a rollback."""
    existing, now = _list_generations(folder), int(_current_name(folder) or 0)
    for undone in (name for name in existing if int(name) > now):
        # A rollback left this generation: a later rollback must not return to it.
        (folder / f"{undone}{FILE_SUFFIX}").unlink(missing_ok=True)
    name = f"{int(existing[-1]) + 1 if existing else 1:04d}"
    write_atomic(folder / f"{name}{FILE_SUFFIX}", msgspec.msgpack.encode(layer))
    write_atomic(folder / CURRENT_FILE, name.encode())
    for old in _list_generations(folder)[:-GENERATIONS_TO_KEEP]:
        (folder / f"{old}{FILE_SUFFIX}").unlink(missing_ok=True)
    return name


def roll_back(folder: Path) -> str:
    """Switch to the previous generation and return its name, "" if none. Raises CatalogError AW-CAT-08."""
    name = _current_name(folder)
    if name is None:
        message, hint = "there is no refresh to roll back", "run archwright catalog refresh --from DIR first"
        raise CatalogError("AW-CAT-08", message, where=ErrorLocation(str(folder)), hint=hint)
    before = [other for other in _list_generations(folder) if int(other) < int(name)]
    if not before:
        (folder / CURRENT_FILE).unlink()
        return ""
    write_atomic(folder / CURRENT_FILE, before[-1].encode())
    return before[-1]


def _list_generations(folder: Path) -> list[str]:
    names = [path.name.removesuffix(FILE_SUFFIX) for path in folder.glob(f"*{FILE_SUFFIX}")]
    return sorted((name for name in names if GENERATION.fullmatch(name)), key=int)
