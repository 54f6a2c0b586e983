"""Records of costs: owning machines, storing and moving data, commitments, managed platforms."""

from typing import Literal

from archwright.catalog.tables.records import Fact

MachineForm = Literal["rack", "desk", "edge"]


class PlanningParameter(Fact):
    """A cost of running own machines; `unit` is the source's (USD/server, kW max), `id` is ours."""

    id: str
    item: str
    kind: str
    low: float
    typical: float
    high: float
    unit: str


class ServerSpec(Fact):
    """A machine to buy. `power_w` is its maximum draw, including its fans, without the building's cooling.

    `form`: rack; desk, for an office; edge, for a site without a server room.
    """

    id: str
    form: MachineForm
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
    """Price of storing or moving a byte; it applies from `from_bytes` to `to_bytes` per month.

    `kind` is object, block, file (per byte and month), egress or network (per byte). `region` is empty if the source
    states none.
    """

    provider: str
    region: str
    item: str
    kind: str
    usd_per_byte: float
    from_bytes: float
    to_bytes: float | None


class CommitmentDiscount(Fact):
    """A discount on the on-demand price for a commitment of `term_months`; 0 months means spot."""

    provider: str
    scope: str
    term_months: int
    payment: str
    discount: float


class PlatformSurcharge(Fact):
    """Surcharge of a managed platform as shares of the machines' price; None: a fixed price (`basis`)."""

    platform: str
    component: str
    low: float | None
    high: float | None
    basis: str
