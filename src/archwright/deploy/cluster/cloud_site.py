"""Cloud sites of a deployment: what Terraform templates need besides the site itself.

A cloud site has one Terraform root module.
"""

import math
import re
from collections import Counter

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.cost_records import CloudService
from archwright.contract.plan import CostLine
from archwright.contract.record import Record
from archwright.deploy.deployment import Deployment, DeploymentSite, MachineGroup

PREFIX_CHARACTERS = 12
# Nodes of the system pool: one for each zone of a region.
LEAST_SYSTEM_NODES = 3
HOST_LINE = re.compile(r"(?:host of .*|system nodes): (\d+)(?: to (\d+))? x (\S+) in ")


class CloudSite(Record):
    """`folder`: where its root module lies, empty or with a slash at the end. `prefix` starts the names of resources.

    `cost_lines`: what the plan pays here every month; `monthly_cost` is their sum in `currency`, `upper_share` the
    upper end of the option's cost as a multiple of its expected cost. `host`: the plan's line for the gateway's host.
    `services`: what the cluster needs beside its machines, by the last part of the id: the plan prices the same rows.
    `system_machine` has `system_cores`, so that all workers of the gateway fit on one node beside the node's services.
    """

    site: DeploymentSite
    folder: str
    prefix: str
    cost_lines: tuple[CostLine, ...]
    currency: str
    upper_share: float
    services: dict[str, CloudService]
    host: str = ""
    system_nodes: int = LEAST_SYSTEM_NODES
    most_system_nodes: int = LEAST_SYSTEM_NODES
    system_cores: int = 2
    system_machine: str = ""

    @property
    def place(self) -> str:
        return self.site.place

    @property
    def monthly_cost(self) -> int:
        return max(1, math.ceil(sum(line.amount.value for line in self.cost_lines)))

    @property
    def reserved(self) -> tuple[MachineGroup, ...]:
        return tuple(one for one in self.site.machines if one.always_on)

    @property
    def queued(self) -> tuple[MachineGroup, ...]:
        return tuple(one for one in self.site.machines if one.is_queued)

    @property
    def accelerator_limits(self) -> tuple[tuple[str, int], ...]:
        """The most accelerators of each kind that the plan runs at once."""
        sums = Counter[str]()
        for one in self.site.machines:
            sums[one.accelerator] += one.accelerator_quota
        return tuple(sorted((name, count) for name, count in sums.items() if name))

    @property
    def prediction_ids(self) -> tuple[str, ...]:
        pools = (pool for one in self.site.machines for pool in self.site.pools if pool.pool.name in one.pools)
        return tuple(dict.fromkeys(name for pool in pools for name in pool.prediction_ids))


def list_system_machines(catalog: Catalog, provider: str) -> tuple[tuple[int, str], ...]:
    """Return virtual processors and names of a provider's general machines, the smallest first."""
    return tuple((row.cores, row.machine) for row in catalog.system_machines if row.provider == provider)


def list_cloud_sites(deployment: Deployment, catalog: Catalog) -> tuple[CloudSite, ...]:
    """Return the sites on rented machines, the main one first."""
    sites = sorted((one for one in deployment.sites if not one.is_own), key=lambda one: not one.is_main)
    places = [one.place for one in sites]
    return tuple(_build_cloud_site(deployment, one, catalog, alone=places.count(one.place) == 1) for one in sites)


def _build_cloud_site(deployment: Deployment, site: DeploymentSite, catalog: Catalog, *, alone: bool) -> CloudSite:
    here = re.compile(rf"(?<![\w-]){re.escape(site.region)}(?![\w-])")
    lines = tuple(one for one in deployment.option.cost_lines if not one.once and here.search(one.name))
    host = next((found for line in lines if (found := HOST_LINE.match(line.name))), None)
    cost = deployment.option.cost_per_month
    sizes = list_system_machines(catalog, site.place)
    planned = next((one[0] for one in sizes if host and one[1] == host[3]), sizes[0][0])
    needed = max(planned, 1 + deployment.plan.gateway_workers * site.is_main)
    cores, machine = next((one for one in sizes if one[0] >= needed), sizes[-1])
    nodes, most = (math.ceil(int(host[n] or host[1]) * planned / cores) if host else 0 for n in (1, 2))
    nodes = max(LEAST_SYSTEM_NODES, nodes)
    return CloudSite(
        site=site,
        folder="" if alone else f"{site.name}/",
        prefix=deployment.shorten_name(deployment.environment, PREFIX_CHARACTERS),
        cost_lines=lines,
        currency=deployment.plan.currency,
        upper_share=max(1.0, cost.high / cost.value) if cost and cost.value else 1.0,
        services={row.id.rpartition(".")[2]: row for row in catalog.services_of(site.place)},
        host=host[0].removesuffix(" in ").rpartition(": ")[2] if host else "",
        system_nodes=nodes,
        most_system_nodes=max(nodes, most),
        system_cores=cores,
        system_machine=machine,
    )
