"""Records of costs: owning machines, storing and moving data, commitments, managed platforms."""

from typing import Literal

from archwright.catalog.tables.records import Fact
from archwright.contract.plan import CostCategory

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


class CloudService(PlanningParameter):
    """A service that the cluster of a cloud site needs beside its machines; bundles read `count` and `setting`.

    `per`: what has `count` units: a site; a site that others send requests to; the site of the gateway; a system node;
    the volume of weights of a pool; a GB of weights that a starting replica reads. `resources`: kinds of rendered
    objects that the row pays for. `region`: where the price holds, empty if it is the same everywhere.
    """

    provider: str
    region: str
    category: CostCategory
    per: Literal["site", "entrance", "gateway", "system-node", "weight-volume", "weight-read"]
    count: float
    setting: str
    resources: tuple[str, ...]

    @property
    def settings(self) -> tuple[str, ...]:
        return tuple(self.setting.split())


class SystemMachine(Fact):
    """A general machine of a provider for the system nodes of a cluster."""

    provider: str
    cores: int
    machine: str


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
