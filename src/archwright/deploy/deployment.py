"""A Deployment: the option of a plan in the terms of its templates, with the numbers that the plan predicts.

A site is a place of the option (a region of a provider, or an own site) with its machines and pools. Names are labels
that Kubernetes, Terraform and systemd all accept. Predictions stand in the plan for its chosen option; for another one,
its limits hold the predicted values (`Option.limits`).
"""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping
from urllib.parse import urlsplit

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import Offer
from archwright.contract.estimate import Estimate
from archwright.contract.needs import Placement
from archwright.contract.plan import OWN_PLACEMENTS, LoadSpec, Option, Plan, PlatformServers, Pool, PurchaseKind
from archwright.contract.record import Record, replace
from archwright.deploy.containers.engine_containers import EngineContainer, build_container, find_resource, find_vendor
from archwright.deploy.containers.weight_loading import WeightLoading, plan_weight_loading
from archwright.deploy.names import check_labels, check_texts, make_label
from archwright.deploy.rendering.components import Pins

SHORT_CHARACTERS = 8
# Providers take this much of the name of a deployment, so that of an environment must end before.
NAME_CHARACTERS = 24
# A response may take this long if the plan predicts no latency.
DEFAULT_GRACE_S, LONGEST_GRACE_S = 60, 3600
# The gateway ends a request after this time, or after the longest response that the plan predicts.
SHORTEST_LIMIT_S = 600
# An engine may take this long to start if the plan does not say; a probe allows this multiple of the prediction.
DEFAULT_STARTUP_S, STARTUP_MARGIN = 600.0, 3.0
# Autoscaling waits this many start times before it removes a replica, and at least SHORTEST_COOLDOWN_S.
COOLDOWN_STARTS, SHORTEST_COOLDOWN_S = 2.0, 300
# Other machine types than the planned one may have up to this multiple of its price.
ALTERNATIVE_PRICE, MOST_ALTERNATIVES = 2.0, 12
# Share of a machine's processors and memory for engines; the rest is for the node's own services.
ENGINE_SHARE = 0.85
# An engine whose row has no port listens here.
DEFAULT_PORT = 8000
NO_PINS = Pins()


class MachineGroup(Record):
    """Equal machines of a site, paid in one way. `mean` and `peak` count machines over the horizon.

    `usd_per_hour`: list price on demand, None if the catalog has none. `pools` use these machines; a pool without
    engines is a job. `node_class` is the label of machines with these accelerators. `alternatives`: the machine type
    first, then others of its region with the same accelerators and as much memory, the cheapest first.
    `local_disk_bytes`: fast disks in the machine, None if the plan does not know them.
    """

    name: str
    machine: str
    kind: PurchaseKind
    mean: float
    peak: int
    pools: tuple[str, ...] = ()
    is_job: bool = False
    accelerator: str = ""
    accelerator_count: int = 0
    vcpu: int = 0
    memory_bytes: int = 0
    arch: str = "x86_64"
    network_bytes_per_s: float = 0.0
    rack_units: float = 0.0
    power_w: float = 0.0
    usd_per_hour: float | None = None
    vendor: str = ""
    alternatives: tuple[str, ...] = ()
    local_disk_bytes: int | None = None

    @property
    def node_class(self) -> str:
        hardware = f"{self.accelerator}-{self.accelerator_count}" if self.accelerator else f"cpu-{self.arch}"
        return make_label(f"{hardware}-jobs" if self.is_job else hardware)

    @property
    def short(self) -> str:
        """A stable name of letters and digits, where a provider allows few."""
        return hashlib.sha256(self.name.encode()).hexdigest()[:SHORT_CHARACTERS]

    @property
    def is_reserved(self) -> bool:
        return self.kind.startswith("commit")

    @property
    def always_on(self) -> int:
        """Machines that run all the time: the whole ones of a commitment's mean."""
        return math.floor(self.mean) if self.is_reserved else 0

    @property
    def is_queued(self) -> bool:
        """True for rented machines of jobs, which can wait until the provider has free accelerators."""
        return self.is_job and self.kind == "on-demand" and bool(self.vendor)

    @property
    def vcpu_quota(self) -> int:
        return self.vcpu * self.peak

    @property
    def memory_quota_gb(self) -> int:
        return math.ceil(self.memory_bytes * self.peak / 1e9)

    @property
    def accelerator_quota(self) -> int:
        return self.accelerator_count * self.peak

    @property
    def reason(self) -> str:
        use = f"the {'job' if self.is_job else 'pool'}{'s' if len(self.pools) > 1 else ''} {', '.join(self.pools)}"
        return f"{self.mean:.2g} machines on average and {self.peak} at the peak, {self.kind}, for {use}"


class PoolDeployment(Record):
    """A pool with what its engines need at run time. `vendor` and `node_class` are those of its machines.

    `queue`: the tenant whose quota its engines use, by the class of data of its first workload.

    `nodes`: machines of one replica. `grace_s`: time that a response may take, so an engine is not ended before.
    `startup_s`: predicted time until a new replica is ready, `loading`: how it reads its weights. `startup_limit_s`:
    when an engine counts as failed, `ready_limit_s`: when a replica does, which may copy weights first. `in_flight`:
    requests that one replica serves at the planned peak, the threshold of autoscaling. `server`: the engine that serves
    in a container, on `port`. `prediction_ids` are behind these numbers; `reason` says them in words. `container` is
    None if the gateway answers for the pool. `surge`: replicas that fit beside the others while they are replaced.
    `is_on_spot`: some machines may be taken away. `url`: of its engines for the gateway at another site, else empty.
    """

    name: str
    pool: Pool
    engine: str
    image: str
    nodes: int
    accelerators_per_node: int
    cpu: int
    memory_bytes: int
    least_replicas: int
    grace_s: int
    startup_s: int
    startup_limit_s: int
    ready_limit_s: int
    loading: WeightLoading
    cooldown_s: int
    in_flight: int
    reason: str
    prediction_ids: tuple[str, ...]
    server: str = ""
    port: int = 0
    load: LoadSpec | None = None
    vendor: str = ""
    node_class: str = ""
    queue: str = ""
    container: EngineContainer | None = None
    site: str = ""
    surge: int = 0
    is_on_spot: bool = False
    url: str = ""

    @property
    def host(self) -> str:
        """The name in `url`, which the certificate and the route of its site carry too."""
        return urlsplit(self.url).hostname or ""

    @property
    def accelerators(self) -> int:
        """Accelerators of one replica."""
        return self.nodes * self.accelerators_per_node

    @property
    def ray_image(self) -> str:
        """The component by which Ray can serve the pool too, if a further replica has accelerators; else empty."""
        usable = self.container if self.nodes == 1 and self.surge else None
        return usable.ray.get(self.vendor, "") if usable else ""

    @property
    def scales(self) -> bool:
        """True if the number of replicas follows the load."""
        return self.least_replicas < self.pool.replicas


class DeploymentSite(Record):
    """A place with its pools and machines. `place`: provider, or "on-premises", "this-machine".

    `is_main`: the gateway runs here. `servers`: what the plan buys here without engines.
    """

    name: str
    place: str
    placement: Placement
    region: str
    pools: tuple[PoolDeployment, ...]
    machines: tuple[MachineGroup, ...]
    servers: tuple[PlatformServers, ...] = ()
    is_main: bool = False

    @property
    def is_own(self) -> bool:
        return self.placement in OWN_PLACEMENTS

    @property
    def has_entrance(self) -> bool:
        """True if requests come in from outside the cluster: from users, or from the gateway at another site."""
        return self.is_main or any(pool.container is not None for pool in self.pools)

    @property
    def is_plant(self) -> bool:
        """True if only models that predict run here, apart from the gateway's site: its machines need no cluster."""
        predicts = bool(self.pools) and all(one.pool.kind == "predict" for one in self.pools)
        has_jobs = any(group.is_job for group in self.machines)
        return self.is_own and not self.is_main and predicts and not has_jobs

    @property
    def platform_servers(self) -> int:
        """Servers for the gateway, the database and the cluster's own state; 0: these share the other machines."""
        return sum(one.count for one in self.servers if one.role == "platform")

    @property
    def accelerators(self) -> dict[str, int]:
        """Accelerators for engines, their replacements and jobs, by resource of Kubernetes."""
        engines, machines = Counter[str](), Counter[str]()
        for pool in self.pools:
            if pool.container is not None:
                engines[pool.container.resource] += (pool.pool.replicas + pool.surge) * pool.accelerators
        for group in self.machines:
            machines[find_resource(group.vendor)] += group.peak * group.accelerator_count
        return {name: count for name, count in (engines | machines).items() if name}


class Deployment(Record):
    """`name`: label of the organisation. `option` is the one that is rendered; `plan` the whole decision.

    `is_plant`: one site without a cluster, of which each machine has a gateway of its own.
    `environment`: empty for the only one of a plan; else `name` ends with it.
    """

    name: str
    plan: Plan
    option: Option
    sites: tuple[DeploymentSite, ...]
    archwright: str
    is_plant: bool = False
    environment: str = ""

    def for_environment(self, environment: str) -> "Deployment":
        """Return the deployment under the name of an environment."""
        return replace(self, name=self.shorten_name(environment, NAME_CHARACTERS), environment=environment)

    def shorten_name(self, environment: str, characters: int) -> str:
        """Return the label of the organisation in at most `characters`; that of an environment ends with it."""
        suffix = f"-{environment}" if environment else ""
        label = make_label(self.plan.organisation)
        return f"{label[: characters - len(suffix)].strip('-')}{suffix}"

    @property
    def is_chosen(self) -> bool:
        return self.option.name == self.plan.chosen

    @property
    def pools(self) -> tuple[PoolDeployment, ...]:
        return tuple(pool for site in self.sites for pool in site.pools)

    @property
    def main_site(self) -> DeploymentSite:
        return next(site for site in self.sites if site.is_main)

    @property
    def served_plan(self) -> Plan:
        """The plan as if it had chosen this option: its pools stand in the plan for its choice only."""
        if self.is_plant:
            pools = tuple(one.pool for one in self.pools)
            return replace(self.plan, chosen=self.option.name, pools=pools, upstreams=())
        if self.is_chosen:
            return self.plan
        return replace(self.plan, chosen=self.option.name, pools=self.option.pools, upstreams=())

    @property
    def cluster_part(self) -> "Deployment":
        """The deployment without its plants."""
        return replace(self, sites=tuple(site for site in self.sites if not site.is_plant))

    @property
    def plants(self) -> tuple["Deployment", ...]:
        """A deployment of each plant, whose machines have a gateway of their own."""
        sites = (replace(site, is_main=True) for site in self.sites if site.is_plant)
        return tuple(replace(self, sites=(site,), is_plant=True) for site in sites)

    @property
    def grace_s(self) -> int:
        """Time that the longest response of any pool may take."""
        return max((pool.grace_s for pool in self.pools), default=0)

    @property
    def gateway_limits(self) -> dict[str, int]:
        """Limits of the gateway in seconds, so that it ends no response that the plan predicts."""
        return {"drain_s": self.grace_s, "request_s": max(SHORTEST_LIMIT_S, self.grace_s)}


def find_server(engine: str, catalog: Catalog) -> tuple[str, int]:
    """Return the engine whose image serves in a container, and its port."""
    row = catalog.engines.get(engine)
    server = row.served_by if row is not None and row.served_by else engine
    row = catalog.engines.get(server)
    return server, (row.port if row is not None else 0) or DEFAULT_PORT


def find_latency(plan: Plan, option: Option, workload: str, metric: str, statistic: str) -> tuple[str, Estimate] | None:
    """Return the id and the estimate of a predicted percentile of a workload, None if the plan has none.

    For an option that the plan did not choose, the p95 of its limits stands for every percentile.
    """
    if option.name == plan.chosen:
        wanted = f"{workload}.{metric}.{statistic}"
        found = next((one for one in plan.predictions if one.id == wanted), None)
        return (found.id, found.estimate) if found is not None else None
    name = f"{workload}.{metric.removesuffix('_s')}_p95_s"
    limit = next((one for one in option.limits if one.limit == name), None)
    return (f"limit.{name}", limit.predicted) if limit is not None else None


def build_deployment(
    plan: Plan, option: Option, catalog: Catalog, images: Mapping[str, str], version: str, pins: Pins = NO_PINS
) -> Deployment:
    """Return the deployment of an option. `images`: the pinned image of each component.

    Raises PlanFileError AW-FILE-12 for texts that would change the meaning of a file, -14 for names that look alike.
    """
    check_texts(plan, option)
    builder = _Builder(plan, option, catalog, images, pins)
    sites = builder.build_sites()
    served = [one.name for one in option.pools]
    check_labels([*served, *dict.fromkeys(one.pool for one in option.purchases if one.pool not in served)], plan)
    check_labels([one.region if one.is_own else f"{one.place}-{one.region}" for one in sites], plan)
    return Deployment(
        name=make_label(plan.organisation),
        plan=plan,
        option=option,
        sites=sites,
        archwright=version,
    )


def _place_pool(
    pool: PoolDeployment, pools: tuple[PoolDeployment, ...], machines: tuple[MachineGroup, ...], site: str
) -> PoolDeployment:
    """Return the pool with what follows from its site. A cloud has more machines; own ones may all be in use."""
    same = [one for one in pools if one.pool.machine == pool.pool.machine]
    owned = sum(one.peak * one.accelerator_count for one in machines if one.machine == pool.pool.machine)
    free = owned - sum(one.pool.replicas * one.accelerators for one in same)
    fits = not pool.pool.is_on_own_hardware or free >= pool.accelerators > 0
    on_spot = any(one.kind == "spot" and pool.pool.name in one.pools for one in machines)
    return replace(pool, site=site, surge=int(fits), is_on_spot=on_spot)


def _plan_loading(pool: Pool, *, readers: int, volume_bytes: int, group: MachineGroup, engines: int) -> WeightLoading:
    """Return how the replicas of a pool read their weights, `engines` of them on each machine."""
    place = pool.provider
    if pool.placement in OWN_PLACEMENTS:
        place = "this-machine" if pool.placement == "this-machine" else "on-premises"
    stored = pool.artefact.size_bytes if pool.artefact is not None else 0
    disk_bytes = group.local_disk_bytes // engines if group.local_disk_bytes is not None else None
    return plan_weight_loading(
        place,
        readers=readers,
        weight_bytes=math.ceil(pool.weight_bytes or stored),
        volume_bytes=volume_bytes,
        disk_bytes=disk_bytes,
    )


class _Builder:
    def __init__(self, plan: Plan, option: Option, catalog: Catalog, images: Mapping[str, str], pins: Pins) -> None:
        self._plan = plan
        self._option = option
        self._catalog = catalog
        self._images = images
        self._pins = pins

    def build_sites(self) -> tuple[DeploymentSite, ...]:
        pools = self._option.pools
        places = list(dict.fromkeys((pool.placement, pool.provider, pool.region) for pool in pools))
        job_places = self._list_job_places(places)
        sites = [self._build_site(place, job_places) for place in (*places, *job_places)]
        main = self._choose_main_site(sites)
        return tuple(replace(site, is_main=True) if site is main else self._address_pools(site) for site in sites)

    def _address_pools(self, site: DeploymentSite) -> DeploymentSite:
        """Return a site whose pools have the URLs that a user stated, else names of the private domain `internal`."""
        stated = self._pins.addresses
        pools = []
        for pool in site.pools:
            url = stated.get(pool.pool.name) or f"https://engine-{pool.name}.{site.name}.archwright.internal/v1"
            pools.append(replace(pool, url=url))
        return replace(site, pools=tuple(pools))

    def _list_job_places(self, known: list[tuple[Placement, str, str]]) -> list[tuple[Placement, str, str]]:
        """Return the cloud region of an option whose only machines there run jobs."""
        option, served = self._option, {pool.name for pool in self._option.pools}
        jobs = [one for one in option.purchases if one.pool not in served]
        if not jobs or option.provider in (provider for _, provider, _ in known) or option.placement != "hybrid":
            return []
        regions = [region for region in option.regions if region not in {region for _, _, region in known}]
        return [("cloud", option.provider, region) for region in regions[:1]]

    def _choose_main_site(self, sites: list[DeploymentSite]) -> DeploymentSite | None:
        """Return the gateway's site: the own one if it has text engines, as the plan counts it, else that with most."""
        text = {site.name: sum(p.pool.replicas for p in site.pools if p.pool.kind == "text") for site in sites}
        return max(sites, key=lambda site: (site.is_own and text[site.name] > 0, text[site.name]), default=None)

    def _build_site(
        self, place: tuple[Placement, str, str], job_places: list[tuple[Placement, str, str]]
    ) -> DeploymentSite:
        placement, provider, region = place
        pools = [p for p in self._option.pools if (p.placement, p.provider, p.region) == place]
        built = tuple(self._build_pool(pool) for pool in pools)
        machines = self._build_machines(pools, place, takes_jobs=place in job_places or not job_places)
        name = make_label(f"{provider}-{region}" if placement not in OWN_PLACEMENTS else region)
        return DeploymentSite(
            name=name,
            place=provider if placement not in OWN_PLACEMENTS else placement,
            placement=placement,
            region=region,
            pools=tuple(_place_pool(pool, built, machines, name) for pool in built),
            machines=machines,
            servers=tuple(one for one in self._option.servers if placement == "on-premises" and one.region == region),
        )

    def _build_machines(
        self, pools: list[Pool], place: tuple[Placement, str, str], *, takes_jobs: bool
    ) -> tuple[MachineGroup, ...]:
        names, served = {pool.name for pool in pools}, {pool.name for pool in self._option.pools}
        groups: dict[tuple[str, PurchaseKind], MachineGroup] = {}
        for one in self._option.purchases:
            is_job = one.pool not in served
            here = one.pool in names or (is_job and takes_jobs and self._sells(one.machine, place))
            if not here:
                continue
            key = (one.machine, one.kind)
            before = groups.get(key) or replace(self._build_group(*key, place), is_job=True)
            is_counted = bool({one.pool, *one.shared_with} & {*before.pools})
            groups[key] = replace(
                before,
                mean=before.mean + (0.0 if is_counted else one.machines),
                peak=before.peak + (0 if is_counted else one.peak),
                pools=tuple(dict.fromkeys((*before.pools, one.pool))),
                is_job=before.is_job and is_job,
            )
        return tuple(groups.values())

    def _sells(self, machine: str, place: tuple[Placement, str, str]) -> bool:
        """True if a job's machine belongs to this place: own ones to the first site with engines on them, or at all."""
        if place[0] in OWN_PLACEMENTS:
            own = [one for one in self._option.pools if one.placement in OWN_PLACEMENTS]
            first = next((one for one in own if one.machine == machine), own[0])
            here = place == (first.placement, first.provider, first.region)
            return here and machine in self._catalog.nodes
        return any(one.instance_type == machine for one in self._catalog.offers_of(place[1]))

    def _build_group(self, machine: str, kind: PurchaseKind, place: tuple[Placement, str, str]) -> MachineGroup:
        """Return the hardware of a machine that the plan has none of yet."""
        node = self._catalog.nodes.get(machine)
        group = MachineGroup(name=make_label(f"{machine}-{kind}"), machine=machine, kind=kind, mean=0.0, peak=0)
        if node is not None:
            return replace(
                group,
                accelerator=node.accelerator or "",
                vendor=find_vendor(node.accelerator, self._catalog),
                accelerator_count=node.accelerator_count,
                vcpu=node.cores,
                memory_bytes=int(node.ram_bytes),
                rack_units=node.rack_units,
                power_w=node.power_w,
                network_bytes_per_s=node.network_bytes_per_s or 0.0,
            )
        offers = [one for one in self._catalog.offers_of(place[1]) if one.instance_type == machine]
        offer = next((one for one in offers if one.region == place[2]), offers[0] if offers else None)
        if offer is None:
            return group
        return replace(
            group,
            accelerator=offer.accelerator or "",
            vendor=find_vendor(offer.accelerator, self._catalog),
            alternatives=self._list_alternatives(offer),
            accelerator_count=offer.accelerator_count,
            local_disk_bytes=offer.local_nvme_bytes or 0,
            vcpu=offer.vcpu,
            memory_bytes=int(offer.ram_bytes),
            arch=offer.arch,
            network_bytes_per_s=offer.network_bytes_per_s or 0.0,
            usd_per_hour=offer.on_demand_usd_per_hour,
        )

    def _find_data_class(self, pool: Pool) -> str:
        return next((one.data_class for one in self._plan.workloads if one.name in pool.workloads), None) or "default"

    def _list_alternatives(self, wanted: Offer) -> tuple[str, ...]:
        """Return the machine types that can replace an offer: a broad list finds free machines more often."""
        most = ALTERNATIVE_PRICE * (wanted.on_demand_usd_per_hour or 0.0)
        found = {
            one.instance_type: one.on_demand_usd_per_hour
            for one in self._catalog.offers_of(wanted.provider)
            if (one.region, one.accelerator, one.accelerator_count, one.arch)
            == (wanted.region, wanted.accelerator, wanted.accelerator_count, wanted.arch)
            and one.vcpu >= wanted.vcpu
            and one.ram_bytes >= wanted.ram_bytes
            and 0 < (one.on_demand_usd_per_hour or 0.0) <= most
        }
        ranked = sorted(found, key=lambda name: (name != wanted.instance_type, found[name], name))
        return tuple(ranked[:MOST_ALTERNATIVES]) or (wanted.instance_type,)

    def _build_pool(self, pool: Pool) -> PoolDeployment:
        group = self._build_group(pool.machine, "on-demand", (pool.placement, pool.provider, pool.region))
        per_machine = max(1, group.accelerator_count)
        nodes = math.ceil(pool.accelerator_count / per_machine) if pool.accelerator_count else 1
        accelerators = math.ceil(pool.accelerator_count / nodes)
        engines = max(1, per_machine // accelerators) if accelerators else 1
        grace, ids = self._compute_grace(pool)
        in_flight, load, more = self._compute_in_flight(pool)
        server, port = find_server(pool.launch.engine, self._catalog)
        load_text = f"{load.requests_per_second:g} requests/s at the peak" if load is not None else "its load"
        memory = max(2**30, math.floor(group.memory_bytes * ENGINE_SHARE / engines))
        container = build_container(pool, port, grace, memory, self._catalog, self._pins)
        volume = container.volume_bytes if container is not None else 0
        loading = _plan_loading(pool, readers=pool.replicas * nodes, volume_bytes=volume, group=group, engines=engines)
        engine_s = pool.launch.startup_s or DEFAULT_STARTUP_S
        startup = engine_s + (loading.alone_s if loading.is_cached else 0.0)
        limit, copying = STARTUP_MARGIN * engine_s + loading.together_s, 0.0
        if loading.is_cached:
            limit, copying = STARTUP_MARGIN * engine_s, loading.together_s
        return PoolDeployment(
            name=make_label(pool.name),
            pool=pool,
            engine=pool.launch.engine,
            image=self._images.get(container.component, "") if container is not None else "",
            nodes=nodes,
            accelerators_per_node=accelerators,
            cpu=max(1, math.floor(group.vcpu * ENGINE_SHARE / engines)),
            memory_bytes=memory,
            least_replicas=self._count_least_replicas(pool),
            grace_s=grace,
            startup_s=math.ceil(startup),
            startup_limit_s=math.ceil(limit),
            ready_limit_s=math.ceil(limit + copying),
            loading=loading,
            cooldown_s=max(SHORTEST_COOLDOWN_S, math.ceil(COOLDOWN_STARTS * startup)),
            in_flight=in_flight,
            reason=(
                f"{pool.replicas} x {pool.model} {pool.quantisation} on {pool.machine} for "
                f"{', '.join(pool.workloads)}: {load_text} within the limits of option {self._option.name}"
            ),
            prediction_ids=tuple(dict.fromkeys((*ids, *more))),
            server=server,
            port=port,
            container=container,
            load=load,
            vendor=group.vendor,
            node_class=group.node_class,
            queue=f"tenant-{self._find_data_class(pool)}",
        )

    def _compute_grace(self, pool: Pool) -> tuple[int, tuple[str, ...]]:
        """Return the upper end of the time of the longest response: TTFT p99 + TPOT p99 x most tokens."""
        longest, ids = 0.0, list[str]()
        for workload in pool.workloads:
            ttft = find_latency(self._plan, self._option, workload, "ttft_s", "p99")
            tpot = find_latency(self._plan, self._option, workload, "tpot_s", "p99")
            if ttft is not None and tpot is not None:
                longest = max(longest, ttft[1].high + tpot[1].high * pool.default_max_tokens)
                ids += [ttft[0], tpot[0]]
        return (min(LONGEST_GRACE_S, math.ceil(longest)) if longest else DEFAULT_GRACE_S), tuple(ids)

    def _compute_in_flight(self, pool: Pool) -> tuple[int, LoadSpec | None, tuple[str, ...]]:
        """Return the requests in flight per replica at the planned peak by Little's law, at most its slots."""
        load = next((one for one in self._plan.loads if one.workload in pool.workloads), None)
        total, ids = 0.0, list[str]()
        for one in self._plan.loads if self._option.name == self._plan.chosen else ():
            if one.workload not in pool.workloads:
                continue
            ttft = find_latency(self._plan, self._option, one.workload, "ttft_s", "p50")
            tpot = find_latency(self._plan, self._option, one.workload, "tpot_s", "p50")
            if ttft is not None and tpot is not None:
                total += one.requests_per_second * (ttft[1].value + tpot[1].value * one.output_tokens.mean)
                ids += [ttft[0], tpot[0]]
        share = self._share_of_pool(pool)
        found = math.ceil(total * share / max(1, pool.replicas)) if total else pool.slots
        return max(1, min(pool.slots, found)), load, tuple(ids)

    def _share_of_pool(self, pool: Pool) -> float:
        """Return the part of a workload's requests that this pool answers, by the slots of its pools."""
        rivals = [one for one in self._option.pools if set(one.workloads) & set(pool.workloads)]
        return pool.slots * pool.replicas / max(1, sum(one.slots * one.replicas for one in rivals))

    def _count_least_replicas(self, pool: Pool) -> int:
        """Return the replicas that always run: all on own machines; else the committed share, at least one."""
        if pool.placement in OWN_PLACEMENTS:
            return pool.replicas
        purchases = [one for one in self._option.purchases if one.pool == pool.name]
        committed = sum(one.machines for one in purchases if one.kind.startswith("commit"))
        machines = sum(one.peak for one in purchases) or 1
        return max(1, min(pool.replicas, math.floor(pool.replicas * committed / machines)))
