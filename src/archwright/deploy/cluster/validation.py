"""The checks of a pool's machines before it serves: devices, and the bandwidth between them, each with two ends."""

import csv
import math
import re
from pathlib import Path

from archwright.catalog.catalog import Catalog
from archwright.contract.record import Record
from archwright.deploy.deployment import Deployment
from archwright.deploy.rendering.templating import TEMPLATES

# Parts of an accelerator's id that its driver does not name, or names in another way.
UNNAMED = re.compile(r"(SXM\d*|PCIe|Server|Workstation|Desktop|\d+GB)")
MIB = 2**20


class PoolValidation(Record):
    """`name` is a regular expression for the driver's name of a device. `bus_gb_per_s`: the ends for the bus bandwidth
    of an all-reduce, None for a single device; without a link's bandwidth in the catalog they accept any.
    """

    name: str
    memory_mib: int
    memory_share: tuple[float, float]
    is_memory_shared: bool
    bus_gb_per_s: tuple[float, float] | None


class Validation(Record):
    """`script` is validate.sh. `pools` by name: those with accelerators."""

    script: str
    pools: dict[str, PoolValidation]


def build_validation(deployment: Deployment, catalog: Catalog) -> Validation:
    with Path(__file__).with_suffix(".csv").open(encoding="utf-8", newline="") as file:
        ends = {row["quantity"]: (float(row["low"]), float(row["high"])) for row in csv.DictReader(file)}
    pools = {}
    for pool in (one for one in deployment.pools if one.pool.accelerator in catalog.accelerators):
        device = catalog.accelerators[pool.pool.accelerator]
        link, (low, high) = device.scale_up_bytes_per_s or 0.0, ends["allreduce"]
        if pool.nodes > 1:
            groups = (group for site in deployment.sites for group in site.machines if pool.name in group.pools)
            link = min([link or math.inf, *(group.network_bytes_per_s for group in groups)])
        bus = (round(low * link / 1e9, 1), round(high * link / 1e9, 1) if link else 1e6)
        pools[pool.name] = PoolValidation(
            name=".*".join(part for part in device.id.split("-") if not UNNAMED.fullmatch(part)),
            memory_mib=round(device.memory_bytes / MIB),
            memory_share=ends["memory"],
            is_memory_shared=device.is_memory_shared,
            bus_gb_per_s=bus if pool.accelerators > 1 else None,
        )
    script = (TEMPLATES / "validation" / "validate.sh").read_text(encoding="utf-8")
    return Validation(script=script, pools=pools)
