"""What owning, storing, moving, committing and managed platforms cost: the record types of those tables."""

from __future__ import annotations

from archwright.catalog.tables.records import Fact


class PlanningParameter(Fact):
    """A figure of running one's own machines; `unit` is the source's (USD/server, kW max), `id` ours."""

    id: str
    item: str
    kind: str
    low: float
    typical: float
    high: float
    unit: str


class ServerSpec(Fact):
    """A machine that is bought. `power_w` is the most it draws, its fans included and the building's cooling not."""

    id: str
    accelerator: str | None
    accelerator_count: int
    cores: int
    ram_bytes: int
    rack_units: float
    power_w: float
    price_low_usd: float
    price_usd: float
    price_high_usd: float
    network_bytes_per_s: float


class StoragePrice(Fact):
    """What keeping or moving bytes costs. `kind` is object, block, file (per byte and month), egress or network (per
    byte). The price holds from `from_bytes` to `to_bytes` of a month; `region` is empty where the source names none.
    """

    provider: str
    region: str
    item: str
    kind: str
    usd_per_byte: float
    from_bytes: float
    to_bytes: float | None


class CommitmentDiscount(Fact):
    """A discount on the on-demand price for a promise of `term_months`; 0 months is spot."""

    provider: str
    scope: str
    term_months: int
    payment: str
    discount: float


class PlatformSurcharge(Fact):
    """What a managed platform adds to the machines, as shares; None: a fixed price, in words in `basis`."""

    platform: str
    component: str
    low: float | None
    high: float | None
    basis: str
