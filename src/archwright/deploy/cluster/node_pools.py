"""Machines and quotas of a cluster: pools of nodes by way of paying, classes of nodes, and queues with quotas.

A queue is a tenant: the workloads of one class of data, or all jobs of a site. Its quota is what the plan gives its
engines, or the job machines and what no engine of a class uses. Engines take back what they lent.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from archwright.contract.plan import WorkloadPlan
from archwright.deploy.containers.engine_containers import find_resource
from archwright.deploy.containers.job_commands import JobCommand, choose_command
from archwright.deploy.containers.night_jobs import NightJob, list_night_jobs
from archwright.deploy.deployment import Deployment, DeploymentSite, MachineGroup, PoolDeployment
from archwright.deploy.names import make_label

# An empty machine of a job ends after this time; that of an engine after the cool-down of autoscaling.
JOB_IDLE_S = 120
# Kubernetes and its agents keep the rest of a machine.
NODE_SHARE = 0.95
# A job uses this part of its machine, since the node's own services need the rest.
JOB_SHARE = 0.8
REFRESH_SUFFIX = "-refresh"
JOB_QUEUE = "jobs"
JOB_PRIORITY = "jobs"
# The class of jobs for which engines of the same queue stop.
NIGHT_PRIORITY = "night"
PURCHASES = ("reserved", "on-demand", "spot")


class NodePool(NamedTuple):
    """Equal machines of a site, paid in one way. `resource`: the extended resource of its accelerators, empty without.

    `idle_s`: time until an empty machine ends. `grace_s`: longest response of its engines, 0 for jobs.
    """

    site: DeploymentSite
    group: MachineGroup
    resource: str
    idle_s: int
    grace_s: int

    @property
    def purchase(self) -> str:
        return "reserved" if self.group.is_reserved else self.group.kind

    @property
    def machines(self) -> tuple[str, ...]:
        """The machine types to choose from; only the planned one was reserved."""
        return self.group.alternatives[: 1 if self.group.is_reserved else None]

    @property
    def limit(self) -> int:
        """Most accelerators, or processors without."""
        return max(1, self.group.peak) * (self.group.accelerator_count or self.group.vcpu)

    @property
    def reason(self) -> str:
        group = self.group
        return f"at most {group.peak} x {group.machine} ({group.kind}) for {', '.join(group.pools)}"


class Quota(NamedTuple):
    """The share of a node class that a queue may use."""

    node_class: str
    resource: str
    cpu: int = 0
    memory_bytes: int = 0
    accelerators: int = 0

    def add(self, cpu: int, memory_bytes: int, accelerators: int) -> "Quota":
        sums = (self.cpu + cpu, self.memory_bytes + memory_bytes, self.accelerators + accelerators)
        return Quota(self.node_class, self.resource, *(max(0, one) for one in sums))


class NodeClass(NamedTuple):
    """The machines of a site that an engine or a job may ask for by their label `name`; paid ones come first."""

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
    def jobs(self) -> tuple[str, ...]:
        served = {pool.pool.name for pool in self.site.pools}
        return tuple(dict.fromkeys(name for one in self.pools for name in one.group.pools if name not in served))

    @property
    def capacity(self) -> Quota:
        quota = Quota(self.name, self.resource)
        for one in (pool.group for pool in self.pools):
            cpu, memory = math.floor(NODE_SHARE * one.vcpu), math.floor(NODE_SHARE * one.memory_bytes)
            quota = quota.add(one.peak * cpu, one.peak * memory, one.peak * one.accelerator_count)
        return quota


class Queue(NamedTuple):
    """`users`: workloads or jobs."""

    site: DeploymentSite
    name: str
    is_job: bool
    users: tuple[str, ...]
    quotas: tuple[Quota, ...]


class Job(NamedTuple):
    """Work without an endpoint, on `nodes` machines of a class at once; the plan has `planned_nodes` for it.

    `workload`: its name in the needs. `night`: its window, if it waits for the night.
    """

    name: str
    workload: str
    node_class: NodeClass
    planned_nodes: int
    command: JobCommand
    night: NightJob | None = None

    @property
    def nodes(self) -> int:
        return self.command.machines

    @property
    def kind(self) -> str:
        """Its kind of Kubernetes. A job that runs once has no clock, also at night."""
        if self.nodes > 1:
            return "RayJob"
        if self.night is not None and self.night.cron:
            return "CronJob"
        return "Job"

    @property
    def group(self) -> MachineGroup:
        return self.node_class.pools[0].group

    @property
    def accelerators(self) -> int:
        """Accelerators of one of its machines; a job of the night leaves those of engines that serve on."""
        if self.night is not None:
            return self.night.window.accelerators
        return self.group.accelerator_count

    @property
    def share(self) -> float:
        """Share of a machine that a run uses."""
        present = self.group.accelerator_count
        if self.night is None or not present or not self.accelerators:
            return JOB_SHARE
        return JOB_SHARE * self.accelerators / present

    @property
    def cpu(self) -> int:
        cores = math.floor(self.group.vcpu * self.share)
        return max(1, cores)

    @property
    def memory_mib(self) -> int:
        memory_bytes = self.group.memory_bytes * self.share
        return math.floor(memory_bytes / 2**20)

    @property
    def queue(self) -> str:
        """The queue whose quota it uses: at night that of the engines that stop for it, else the queue of jobs."""
        if self.night is None or not self.night.pauses:
            return JOB_QUEUE
        return self.night.pauses[0].queue

    @property
    def priority(self) -> str:
        if self.queue == JOB_QUEUE:
            return JOB_PRIORITY
        return NIGHT_PRIORITY


class ClusterCapacity(NamedTuple):
    pools: tuple[NodePool, ...]
    classes: tuple[NodeClass, ...]
    queues: tuple[Queue, ...]
    jobs: tuple[Job, ...]

    @property
    def paused_sites(self) -> tuple[DeploymentSite, ...]:
        """The sites where engines stop for a job."""
        sites = dict[str, DeploymentSite]()
        for job in self.jobs:
            site = job.node_class.site
            if job.priority == NIGHT_PRIORITY:
                sites[site.name] = site
        return tuple(sites.values())

    @property
    def job_extras(self) -> list[str]:
        """Return the extras that the image of all jobs installs."""
        return sorted({extra for job in self.jobs for extra in job.command.extras})

    def shares_job_home(self, site: DeploymentSite) -> bool:
        """True if several machines of a site may use the volume of its jobs at once."""
        machines = 0
        for job in self.jobs:
            if job.node_class.site.name == site.name:
                machines += job.nodes
        return machines > 1

    def find_job(self, night: NightJob) -> Job:
        """Return the job of a window."""
        return next(job for job in self.jobs if job.name == night.name)

    @property
    def night_extras(self) -> list[str]:
        """Return the extras that the jobs of the night import."""
        extras = set[str]()
        for job in self.jobs:
            if job.night is not None:
                extras.update(job.command.extras)
        return sorted(extras)

    def list_resources(self, site: DeploymentSite) -> list[str]:
        """Return the extended resources of a site's accelerators."""
        return sorted({one.resource for one in self.pools if one.site.name == site.name and one.resource})

    def has_platform(self, site: DeploymentSite) -> bool:
        """True for a cluster with accelerators or an entrance; other sites only run small predictors and monitoring."""
        return site.has_entrance or bool(self.list_resources(site))


def build_capacity(deployment: Deployment) -> ClusterCapacity:
    pools = [_build_pool(site, one) for site in deployment.sites for one in site.machines]
    classes = _group_classes(pools)
    peaks = {one.pool: one.peak for one in deployment.option.purchases}
    workloads = {workload.name: workload for workload in deployment.plan.workloads}
    jobs = dict[str, Job]()
    for node_class in classes:
        for name in node_class.jobs:
            workload = _find_workload(name, workloads)
            job = _build_job(name, node_class, peaks[name], workload)
            jobs[job.name] = job
    for night in list_night_jobs(deployment):
        jobs[night.name] = jobs[night.name]._replace(night=night)
    queues = [queue for site in deployment.sites for queue in _build_queues(site, classes)]
    return ClusterCapacity(tuple(pools), tuple(classes), tuple(queues), tuple(jobs.values()))


def _build_job(name: str, node_class: NodeClass, peak: int, workload: WorkloadPlan | None) -> Job:
    planned_nodes = peak if node_class.is_job else 1
    command = choose_command(workload, planned_nodes)
    workload_name = name
    if workload is not None:
        workload_name = workload.name
    return Job(make_label(name), workload_name, node_class, planned_nodes, command)


def _find_workload(job: str, workloads: Mapping[str, WorkloadPlan]) -> WorkloadPlan | None:
    """Return the workload of a job; one that also answers requests has a suffix in the name of its job."""
    name = job.removesuffix(REFRESH_SUFFIX)
    return workloads.get(job) or workloads.get(name)


def _build_pool(site: DeploymentSite, group: MachineGroup) -> NodePool:
    engines = [one for one in site.pools if one.pool.name in group.pools]
    return NodePool(
        site=site,
        group=group,
        resource=find_resource(group.vendor),
        idle_s=max((one.cooldown_s for one in engines), default=JOB_IDLE_S),
        grace_s=max((one.grace_s for one in engines), default=0),
    )


def _group_classes(pools: list[NodePool]) -> list[NodeClass]:
    found: dict[tuple[str, str], list[NodePool]] = {}
    for one in sorted(pools, key=lambda one: PURCHASES.index(one.purchase) if one.purchase in PURCHASES else 0):
        found.setdefault((one.site.name, one.group.node_class), []).append(one)
    return [NodeClass(members[0].site, name, tuple(members)) for (_, name), members in sorted(found.items())]


def _build_queues(site: DeploymentSite, classes: list[NodeClass]) -> list[Queue]:
    here = {one.name: one for one in classes if one.site.name == site.name}
    tenants: dict[str, list[PoolDeployment]] = {}
    for pool in site.pools:
        tenants.setdefault(pool.queue, []).append(pool)
    queues = [_build_tenant(site, name, pools) for name, pools in tenants.items()]
    rest = {one.name: one.capacity for one in here.values() if site.is_own or one.jobs}
    for used in (quota for queue in queues for quota in queue.quotas if quota.node_class in rest):
        rest[used.node_class] = rest[used.node_class].add(-used.cpu, -used.memory_bytes, -used.accelerators)
    jobs = tuple(dict.fromkeys(job for one in here.values() for job in one.jobs))
    return [*queues, Queue(site, "jobs", True, jobs, tuple(rest.values()))] if jobs else queues


def _build_tenant(site: DeploymentSite, name: str, pools: list[PoolDeployment]) -> Queue:
    quotas: dict[str, Quota] = {}
    for one in pools:
        resource = find_resource(one.vendor)
        before = quotas.get(one.node_class, Quota(one.node_class, resource))
        count = (one.pool.replicas + one.surge) * one.nodes
        quotas[one.node_class] = before.add(
            count * one.cpu, count * one.memory_bytes, count * one.accelerators_per_node
        )
    users = tuple(dict.fromkeys(user for one in pools for user in one.pool.workloads))
    return Queue(site, name, False, users, tuple(quotas.values()))
