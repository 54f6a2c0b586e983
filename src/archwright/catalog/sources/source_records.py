"""Results of an adapter, with the source's own names of providers, regions, machines and accelerators."""

from __future__ import annotations

from datetime import date
from typing import NamedTuple


class FileContext(NamedTuple):
    """The input of an adapter beside the bytes: the path below the refreshed folder, and the current day."""

    name: str
    today: date


class InstancePrice(NamedTuple):
    """List, spot and committed price of a machine type in a region, USD an hour."""

    region: str
    instance_type: str
    on_demand: float
    spot: float | None = None
    commit_1y: float | None = None
    commit_3y: float | None = None


class SpotPrice(NamedTuple):
    """Spot price of a machine type in a region, USD an hour, of a source without list prices."""

    region: str
    instance_type: str
    usd_per_hour: float


class ComponentRate(NamedTuple):
    """Price of one part of a machine, USD an hour: a `core`, a GiB of `ram` or `ssd`, a `gpu`.

    `of`: the source's name of the machine family or accelerator; empty for any.
    """

    region: str
    of: str
    part: str
    usd_per_hour: float
    spot: bool


class InstanceSpec(NamedTuple):
    """The build of a machine type. `memory_gib`: memory of one accelerator, if the source states it."""

    instance_type: str
    accelerator: str
    accelerator_count: int
    accelerator_share: float
    memory_gib: float | None
    vcpu: int
    ram_bytes: int
    arch: str = ""
    local_nvme_bytes: int | None = None
    network_bytes_per_s: float | None = None
    network_note: str = ""


class HostedTokenPrice(NamedTuple):
    """Price of a hosted model, USD a token."""

    provider: str
    model: str
    input: float
    output: float
    cache_read: float | None = None
    cache_write: float | None = None
    batch_input: float | None = None
    batch_output: float | None = None
    context_tokens: int | None = None
    output_tokens: int | None = None
    deprecation_date: str = ""


class BytePrice(NamedTuple):
    """Price of storing (per month) or moving a byte; `item` is the source's name."""

    provider: str
    region: str
    item: str
    kind: str
    usd_per_byte: float
    from_bytes: float = 0.0
    to_bytes: float | None = None


class CarbonIntensity(NamedTuple):
    """Mean carbon intensity of a country's electricity; `country` is alpha-3, `name` the source's name."""

    country: str
    name: str
    gco2_per_kwh: float
    year: str


class ElectricityTariff(NamedTuple):
    """Price of a kWh for a business and for industry, in `currency`; `area` is a state of the country."""

    country: str
    area: str
    commercial: float | None
    industrial: float | None
    currency: str
    period: str


class BenchmarkScore(NamedTuple):
    """A reported score, as a share; `original_source` is the reporter's publication."""

    model: str
    benchmark: str
    score: float
    method: str
    reported_by: str
    original_source: str


class AcceleratorSpec(NamedTuple):
    """An accelerator: dense rates in FLOP/s per dtype, memory, scale-up link per direction, watts."""

    name: str
    memory_bytes: int
    bandwidth_bytes_per_s: float
    flops: dict[str, float]
    scale_up_bytes_per_s: float | None = None
    tdp_w: float | None = None


class CheckpointArchitecture(NamedTuple):
    """The architecture in a checkpoint's configuration, by the field names of a model's row."""

    model: str
    fields: dict[str, int]


class SourceFacts(NamedTuple):
    """`as_of`: the day stated in the file, or empty. `parts`: facts of several providers, by name."""

    as_of: str = ""
    prices: tuple[InstancePrice, ...] = ()
    builds: tuple[InstanceSpec, ...] = ()
    tokens: tuple[HostedTokenPrice, ...] = ()
    stored: tuple[BytePrice, ...] = ()
    carbon: tuple[CarbonIntensity, ...] = ()
    spots: tuple[SpotPrice, ...] = ()
    rates: tuple[ComponentRate, ...] = ()
    tariffs: tuple[ElectricityTariff, ...] = ()
    scores: tuple[BenchmarkScore, ...] = ()
    devices: tuple[AcceleratorSpec, ...] = ()
    architectures: tuple[CheckpointArchitecture, ...] = ()
    parts: tuple[tuple[str, SourceFacts], ...] = ()

    @property
    def rows(self) -> int:
        own = (len(getattr(self, name)) for name in self._fields if name not in ("as_of", "parts"))
        return max(*own, sum(part.rows for _, part in self.parts))


def require_usd(currency: object) -> None:
    """Raises ValueError for another currency, since such a price is a conversion."""
    if currency != "USD":
        raise ValueError(f"the prices are in {currency}, not in USD")
