"""Machines and quotas of a cluster: pools of nodes by way of paying, classes of nodes, and queues with quotas.

A queue is a tenant: the workloads of one class of data, or all jobs of a site. Its quota is what the plan gives its
engines, or the job machines; on own machines the jobs also get what no engine uses. Engines take lent machines back.
"""

import math
from typing import NamedTuple

from archwright.contract.needs import Sensitivity
from archwright.contract.plan import Plan
from archwright.deploy.cloud_site import CloudGroup, CloudSite, list_cloud_sites
from archwright.deploy.deployment import (
    ENGINE_SHARE,
    Deployment,
    DeploymentSite,
    MachineGroup,
    PoolDeployment,
    make_label,
)
from archwright.deploy.engine_containers import read_engine_table

# An empty machine of a job ends after this time; that of an engine after the cool-down of autoscaling.
JOB_IDLE_S = 120
# Kubernetes and its agents keep this share of a machine.
NODE_SHARE = 0.95
ARCHITECTURES = {"x86_64": "amd64"}


class NodePool(NamedTuple):
    """Equal machines of a site, paid in one way. `purchase` is reserved, on-demand or spot.

    `resource`: the extended resource of its accelerators, empty without. `limit`: most accelerators, else processors.
    `idle_s`: time until an empty machine ends. `grace_s`: longest response of its engines, 0 for jobs. `short`: name of
    the group in Terraform. `is_reserved`, `is_queued`: Terraform reserves the machines, or they wait for capacity.
    """

    site: DeploymentSite
    group: MachineGroup
    purchase: str
    resource: str
    limit: int
    idle_s: int
    grace_s: int
    short: str
    is_reserved: bool
    is_queued: bool

    @property
    def machines(self) -> tuple[str, ...]:
        """The machine types to choose from; only the planned one was reserved."""
        return self.group.alternatives[: 1 if self.purchase == "reserved" else None]

    @property
    def arch(self) -> str:
        return ARCHITECTURES.get(self.group.arch, self.group.arch)

    @property
    def reason(self) -> str:
        group = self.group
        work = "jobs" if group.is_job else "engines"
        return f"at most {group.peak} x {group.machine} ({group.kind}) for the {work} of {', '.join(group.pools)}"


class NodeClass(NamedTuple):
    """The machines of a site that an engine or a job may ask for by their label `name`."""

    site: DeploymentSite
    name: str
    pools: tuple[NodePool, ...]

    @property
    def resource(self) -> str:
        return self.pools[0].resource

    @property
    def is_job(self) -> bool:
        return self.pools[0].group.is_job

    @property
    def capacity(self) -> "Quota":
        groups = [one.group for one in self.pools]
        return Quota(
            node_class=self.name,
            cpu=math.floor(NODE_SHARE * sum(one.peak * one.vcpu for one in groups)),
            memory_bytes=math.floor(NODE_SHARE * sum(one.peak * one.memory_bytes for one in groups)),
            accelerators={self.resource: sum(one.peak * one.accelerator_count for one in groups)},
        )


class Quota(NamedTuple):
    """What a queue may use of a node class. `accelerators`: number by extended resource."""

    node_class: str
    cpu: int
    memory_bytes: int
    accelerators: dict[str, int]

    def number_of(self, resource: str) -> int:
        return self.accelerators.get(resource, 0) if resource else 0

    def subtract(self, other: "Quota") -> "Quota":
        accelerators = {name: max(0, number - other.number_of(name)) for name, number in self.accelerators.items()}
        cpu, memory = max(0, self.cpu - other.cpu), max(0, self.memory_bytes - other.memory_bytes)
        return Quota(self.node_class, cpu, memory, accelerators)


class Queue(NamedTuple):
    """`name`: of the queue in its cluster. `users`: workloads or jobs. `pools`: those whose engines wait in it."""

    site: DeploymentSite
    name: str
    is_job: bool
    users: tuple[str, ...]
    pools: tuple[str, ...]
    quotas: tuple[Quota, ...]


class Job(NamedTuple):
    """Work without an endpoint on the machines of a node class, `nodes` of them at once."""

    site: DeploymentSite
    name: str
    node_class: NodeClass
    nodes: int

    @property
    def cpu(self) -> int:
        return max(1, math.floor(NODE_SHARE * self._machine.vcpu) - 1)

    @property
    def memory_bytes(self) -> int:
        return math.floor(ENGINE_SHARE * self._machine.memory_bytes)

    @property
    def accelerators(self) -> int:
        return self._machine.accelerator_count

    @property
    def _machine(self) -> MachineGroup:
        return self.node_class.pools[0].group


class ClusterCapacity(NamedTuple):
    pools: tuple[NodePool, ...]
    classes: tuple[NodeClass, ...]
    queues: tuple[Queue, ...]
    jobs: tuple[Job, ...]

    def list_resources(self, site: DeploymentSite) -> list[str]:
        """Return the extended resources of a site's accelerators."""
        return sorted({one.resource for one in self.pools if one.site.name == site.name and one.resource})

    def has_platform(self, site: DeploymentSite) -> bool:
        """True for a cluster with accelerators or the gateway; other sites only run small predictors and monitoring."""
        return site.is_main or bool(self.list_resources(site))

    def list_vendors(self, site: DeploymentSite) -> list[str]:
        return sorted({one.group.vendor for one in self.pools if one.site.name == site.name and one.resource})


def build_capacity(deployment: Deployment) -> ClusterCapacity:
    clouds = {
        (cloud.site.name, one.group.name): (cloud, one)
        for cloud in list_cloud_sites(deployment)
        for one in cloud.groups
    }
    pools = tuple(
        _build_pool(site, group, *clouds.get((site.name, group.name), (None, None)))
        for site in deployment.sites
        for group in site.machines
    )
    classes = tuple(_group_classes(pools))
    queues = tuple(queue for site in deployment.sites for queue in _build_queues(site, classes, deployment.plan))
    return ClusterCapacity(pools=pools, classes=classes, queues=queues, jobs=tuple(_list_jobs(deployment, classes)))


def _build_pool(
    site: DeploymentSite, group: MachineGroup, cloud: CloudSite | None, rented: CloudGroup | None
) -> NodePool:
    engines = [one for one in site.pools if one.pool.name in group.pools]
    per_machine = group.accelerator_count or group.vcpu
    purchase = "reserved" if group.kind.startswith("commit") else group.kind
    return NodePool(
        site=site,
        group=group,
        purchase=purchase,
        resource=read_engine_table().resources.get(group.vendor, ""),
        limit=max(1, group.peak) * per_machine,
        idle_s=max((one.cooldown_s for one in engines), default=JOB_IDLE_S),
        grace_s=max((one.grace_s for one in engines), default=0),
        short=rented.short if rented is not None else "",
        is_reserved=cloud is not None and rented in cloud.reserved,
        is_queued=cloud is not None and rented in cloud.queued,
    )


def _group_classes(pools: tuple[NodePool, ...]) -> list[NodeClass]:
    """Paid machines come first in a class, spot machines last."""
    found: dict[tuple[str, str], list[NodePool]] = {}
    for one in pools:
        found.setdefault((one.site.name, one.group.node_class), []).append(one)
    order = {"reserved": 0, "on-demand": 1, "spot": 2}
    return [
        NodeClass(members[0].site, name, tuple(sorted(members, key=lambda one: order.get(one.purchase, 0))))
        for (_, name), members in found.items()
    ]


def _build_queues(site: DeploymentSite, classes: tuple[NodeClass, ...], plan: Plan) -> list[Queue]:
    here = [one for one in classes if one.site.name == site.name]
    tenants: dict[str, list[PoolDeployment]] = {}
    for pool in site.pools:
        tenants.setdefault(make_label(find_data_class(pool, plan) or "default"), []).append(pool)
    queues = [_build_tenant(site, name, pools) for name, pools in tenants.items()]
    rest = {one.name: one.capacity for one in here if site.is_own or _list_job_names(site, one)}
    for quota in (quota for queue in queues for quota in queue.quotas):
        if quota.node_class in rest:
            rest[quota.node_class] = rest[quota.node_class].subtract(quota)
    jobs = tuple(dict.fromkeys(job for one in here for job in _list_job_names(site, one)))
    if jobs:
        queues.append(Queue(site, "jobs", is_job=True, users=jobs, pools=(), quotas=tuple(rest.values())))
    return queues


def find_data_class(pool: PoolDeployment, plan: Plan) -> Sensitivity | None:
    """Return the class of data of a pool's first workload."""
    return next((one.data_class for one in plan.workloads if one.name in pool.pool.workloads), None)


def _build_tenant(site: DeploymentSite, name: str, pools: list[PoolDeployment]) -> Queue:
    quotas: dict[str, Quota] = {}
    for pool in pools:
        machines = pool.pool.replicas * pool.nodes
        before = quotas.get(pool.node_class, Quota(pool.node_class, 0, 0, {}))
        resource = read_engine_table().resources.get(pool.vendor, "")
        more = before.number_of(resource) + machines * pool.accelerators_per_node
        quotas[pool.node_class] = Quota(
            node_class=pool.node_class,
            cpu=before.cpu + machines * pool.cpu,
            memory_bytes=before.memory_bytes + machines * pool.memory_bytes,
            accelerators={**before.accelerators, resource: more},
        )
    users = tuple(dict.fromkeys(user for pool in pools for user in pool.pool.workloads))
    names = tuple(pool.name for pool in pools)
    return Queue(site, f"tenant-{name}", is_job=False, users=users, pools=names, quotas=tuple(quotas.values()))


def _list_job_names(site: DeploymentSite, node_class: NodeClass) -> list[str]:
    served = {pool.pool.name for pool in site.pools}
    return [name for one in node_class.pools for name in one.group.pools if name not in served]


def _list_jobs(deployment: Deployment, classes: tuple[NodeClass, ...]) -> list[Job]:
    peaks = {one.pool: one.peak for one in deployment.option.purchases}
    found: dict[str, Job] = {}
    for one in classes:
        for name in _list_job_names(one.site, one):
            whole = one.is_job and peaks.get(name, 1) > 1
            found.setdefault(name, Job(one.site, make_label(name), one, peaks[name] if whole else 1))
    return list(found.values())
