"""Racks, switch ports and hosts of the organisation's own sites.

Machines fill racks by rack units and by the power that air can cool (`cooling.air` of the catalog), the largest draw
first. Each machine has two power supplies, each on its own feed; either feed can carry the whole rack. Each machine has
a port on two front-end switches and a port on the out-of-band switch of its rack pair. Engines that span machines get a
fabric port for each accelerator, on the switch of its rail.
"""

import math
from collections.abc import Iterable, Iterator

from archwright.catalog.catalog import Catalog
from archwright.contract.record import Record, replace
from archwright.deploy.deployment import Deployment, DeploymentSite, MachineGroup, make_label

RACK_UNITS = 42
# Units at the top of each rack for two front-end switches and the out-of-band switch.
SWITCH_UNITS = 3
# Ports of a front-end switch; two of them go to the network above.
SWITCH_PORTS, UPLINK_PORTS = 32, 2
# Nodes that keep the state of the cluster: a majority survives the loss of one.
CONTROL_NODES = 3
CONTROL_UNITS, CONTROL_POWER_W = 1.0, 400.0
STORAGE_UNITS, STORAGE_POWER_W = 2.0, 500.0
# From this many machines on, the control plane has machines of its own.
LEAST_FOR_CONTROL_NODES = 3


class Host(Record):
    """A machine in a rack. `unit`: its lowest rack unit, counted from 1 at the bottom. `status`: bought, owned, new."""

    name: str
    role: str
    machine: str
    status: str
    rack: str
    unit: int
    units: int
    power_w: float
    accelerator: str
    accelerator_count: int
    number: int
    front_address: str
    oob_address: str
    pools: tuple[str, ...] = ()


class Rack(Record):
    """`feed_w`: what each of two feeds must carry alone. `liquid`: air cannot cool this draw."""

    name: str
    units: int
    power_w: float
    liquid: bool

    @property
    def feed_w(self) -> float:
        return self.power_w


class SwitchPort(Record):
    switch: str
    port: int
    speed_gbit: float
    host: str
    interface: str
    network: str


class BillItem(Record):
    """A line of the bill of materials. `amount`, `low` and `high` are in the plan's currency, None if not priced."""

    item: str
    quantity: int
    status: str
    amount: float | None
    low: float | None
    high: float | None
    source: str


class SiteLayout(Record):
    """`edge`: small machines without racks. `networks`: name -> address range, to be changed before use."""

    site: DeploymentSite
    racks: tuple[Rack, ...]
    hosts: tuple[Host, ...]
    ports: tuple[SwitchPort, ...]
    networks: dict[str, str]
    edge: bool

    @property
    def power_w(self) -> float:
        return sum(rack.power_w for rack in self.racks)

    @property
    def has_fabric(self) -> bool:
        return "fabric" in self.networks

    @property
    def switches(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(port.switch for port in self.ports))

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(host.role for host in self.hosts))


def lay_out_sites(deployment: Deployment, catalog: Catalog) -> tuple[SiteLayout, ...]:
    """Return the layout of each own site; empty if the option has none."""
    limit_w = catalog.parameter("cooling.air").value * 1000
    own = [site for site in deployment.sites if site.placement == "on-premises"]
    return tuple(_lay_out_site(deployment, site, number, limit_w) for number, site in enumerate(own))


def _lay_out_site(deployment: Deployment, site: DeploymentSite, number: int, limit_w: float) -> SiteLayout:
    edge = not site.is_main and all(not group.accelerator_count for group in site.machines)
    hosts = [*_list_machines(site, number)]
    if not edge:
        hosts += _list_platform_hosts(deployment, hosts, number, is_main=site.is_main)
    placed, racks = ([*hosts], []) if edge else _fill_racks(site.name, hosts, limit_w)
    second = 20 + 4 * number
    networks = {"front": f"10.{second}.0.0/22", "out-of-band": f"10.{second + 1}.0.0/22"}
    if any(pool.nodes > 1 for pool in site.pools):
        networks["fabric"] = f"10.{second + 2}.0.0/16"
    ports = tuple(_list_ports(site, placed)) if not edge else ()
    return SiteLayout(site=site, racks=tuple(racks), hosts=tuple(placed), ports=ports, networks=networks, edge=edge)


def _list_machines(site: DeploymentSite, number: int) -> Iterator[Host]:
    """Return a host for each machine at the peak; a purchase of the same machine goes on counting."""
    counts: dict[str, int] = {}
    for group in site.machines:
        for _ in range(group.peak):
            counts[group.machine] = counts.get(group.machine, 0) + 1
            name = f"{make_label(group.machine)}-{counts[group.machine]:02d}"
            role = "accelerator" if group.accelerator_count else "processor"
            yield _make_host(name, role, group, number, sum(counts.values()))


def _make_host(name: str, role: str, group: MachineGroup, site_number: int, number: int) -> Host:
    second = 20 + 4 * site_number
    offset = 10 + number
    return Host(
        name=name,
        role=role,
        machine=group.machine,
        status=group.kind,
        rack="",
        unit=0,
        units=max(1, math.ceil(group.rack_units)),
        power_w=group.power_w,
        accelerator=group.accelerator,
        accelerator_count=group.accelerator_count,
        number=number,
        front_address=f"10.{second}.{offset // 250}.{offset % 250}",
        oob_address=f"10.{second + 1}.{offset // 250}.{offset % 250}",
        pools=group.pools,
    )


def _list_platform_hosts(
    deployment: Deployment, machines: list[Host], site_number: int, *, is_main: bool
) -> Iterator[Host]:
    """Return the hosts that the plan prices as platform and storage: cluster state, gateway, disks."""
    if not is_main or len(machines) < LEAST_FOR_CONTROL_NODES:
        return
    number = len(machines)
    used = sum(host.units for host in machines) + SWITCH_UNITS + CONTROL_NODES * CONTROL_UNITS
    spare = (deployment.option.rack_units or 0.0) - used
    stores = max(0, math.ceil(spare / STORAGE_UNITS))
    for role, count, units, power in (
        ("control-plane", CONTROL_NODES, CONTROL_UNITS, CONTROL_POWER_W),
        ("storage", stores, STORAGE_UNITS, STORAGE_POWER_W),
    ):
        for index in range(count):
            number += 1
            group = MachineGroup(
                name=role,
                machine=f"{role} server",
                kind="bought",
                mean=1.0,
                peak=1,
                accelerator="",
                accelerator_count=0,
                vcpu=0,
                memory_bytes=0,
                arch="x86_64",
                pools=(),
                rack_units=units,
                power_w=power,
            )
            yield _make_host(f"{role}-{index + 1:02d}", role, group, site_number, number)


def _fill_racks(site: str, hosts: list[Host], limit_w: float) -> tuple[list[Host], list[Rack]]:
    """Place hosts in racks, first fit with the largest draw first; control-plane nodes go to different racks."""
    racks, placed = list[Rack](), list[Host]()
    for host in sorted(hosts, key=lambda one: (-one.power_w, one.name)):
        taken = {one.rack for one in placed if one.role == host.role == "control-plane"}
        fitting = [
            rack
            for rack in racks
            if rack.units + host.units <= RACK_UNITS - SWITCH_UNITS and rack.power_w + host.power_w <= limit_w
        ]
        fitting.sort(key=lambda rack: rack.name in taken)
        if fitting:
            rack = fitting[0]
        else:
            rack = Rack(name=f"{site}-r{len(racks) + 1:02d}", units=0, power_w=0.0, liquid=host.power_w > limit_w)
            racks.append(rack)
        placed.append(replace(host, rack=rack.name, unit=rack.units + 1))
        grown = replace(rack, units=rack.units + host.units, power_w=rack.power_w + host.power_w)
        racks[racks.index(rack)] = grown
    return sorted(placed, key=lambda one: (one.rack, one.unit)), racks


def _list_ports(site: DeploymentSite, hosts: list[Host]) -> Iterator[SwitchPort]:
    speeds = {group.machine: group.network_bytes_per_s * 8 / 1e9 for group in site.machines}
    each = SWITCH_PORTS - UPLINK_PORTS
    for index, host in enumerate(hosts):
        pair, port = index // each, UPLINK_PORTS + index % each + 1
        speed = min(100.0, speeds.get(host.machine, 25.0) or 25.0)
        for side in (1, 2):
            switch = f"{site.name}-front-{2 * pair + side}"
            yield SwitchPort(
                switch=switch, port=port, speed_gbit=speed, host=host.name, interface=f"nic{side}", network="front"
            )
        oob = f"{site.name}-oob-{pair + 1}"
        yield SwitchPort(switch=oob, port=port, speed_gbit=1.0, host=host.name, interface="bmc", network="out-of-band")
    yield from _list_fabric_ports(site, hosts)


def _list_fabric_ports(site: DeploymentSite, hosts: list[Host]) -> Iterator[SwitchPort]:
    """Return a port for each accelerator of the hosts whose engines span machines, on the switch of its rail."""
    spanning = {pool.pool.machine for pool in site.pools if pool.nodes > 1}
    for index, host in enumerate(one for one in hosts if one.machine in spanning):
        for rail in range(host.accelerator_count):
            yield SwitchPort(
                switch=f"{site.name}-rail-{rail + 1}",
                port=index + 1,
                speed_gbit=400.0,
                host=host.name,
                interface=f"fabric{rail}",
                network="fabric",
            )


PRICED = ("purchase", "network", "storage", "platform", "licence")


def list_bill(deployment: Deployment, layouts: Iterable[SiteLayout]) -> tuple[BillItem, ...]:
    """Return what to provide: machines and switches counted, then the purchases that the plan prices."""
    items, counted = list[BillItem](), dict[tuple[str, str], int]()
    for layout in layouts:
        for host in layout.hosts:
            key = (f"{host.machine} in {layout.site.region}", "owned" if host.status == "owned" else "to buy")
            counted[key] = counted.get(key, 0) + 1
        for switch in layout.switches:
            kind = switch.removeprefix(f"{layout.site.name}-").rstrip("0123456789").rstrip("-")
            key = (f"{kind} switch in {layout.site.region}", "to provide")
            counted[key] = counted.get(key, 0) + 1
        if layout.racks:
            counted[(f"rack with two power feeds in {layout.site.region}", "to provide")] = len(layout.racks)
    for (item, status), quantity in counted.items():
        items.append(
            BillItem(
                item=item, quantity=quantity, status=status, amount=None, low=None, high=None, source="machines of plan"
            )
        )
    for line in deployment.option.cost_lines:
        if line.once and line.category in PRICED and line.amount.value > 0:
            amount = line.amount
            items.append(
                BillItem(
                    item=line.name,
                    quantity=1,
                    status="priced in the plan",
                    amount=round(amount.value, 2),
                    low=round(amount.low, 2),
                    high=round(amount.high, 2),
                    source=amount.basis or line.category,
                )
            )
    return tuple(items)
