"""What an adapter finds, in the source's own words for providers, regions, machines and accelerators."""

from __future__ import annotations

from typing import NamedTuple


class Price(NamedTuple):
    """List and spot price of a machine type in a region, USD an hour."""

    region: str
    instance_type: str
    on_demand: float
    spot: float | None = None


class Build(NamedTuple):
    """What a machine type is. `memory_gib` is that of one accelerator, where the source states it."""

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


class TokenPrice(NamedTuple):
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
    """Price of storing (per month) or moving a byte; `item` in the source's words."""

    provider: str
    region: str
    item: str
    kind: str
    usd_per_byte: float
    from_bytes: float = 0.0
    to_bytes: float | None = None


class Carbon(NamedTuple):
    """Mean carbon of a country's electricity; `country` is alpha-3, `name` the source's word for it."""

    country: str
    name: str
    gco2_per_kwh: float
    year: str


class Found(NamedTuple):
    """`as_of` is the day the bytes themselves state, empty when they state none."""

    as_of: str = ""
    prices: tuple[Price, ...] = ()
    builds: tuple[Build, ...] = ()
    tokens: tuple[TokenPrice, ...] = ()
    stored: tuple[BytePrice, ...] = ()
    carbon: tuple[Carbon, ...] = ()
