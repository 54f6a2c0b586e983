"""Racks, switch ports and hosts of the organisation's own sites.

Machines fill racks by rack units and by the power that air can cool (`cooling.air` of the catalog), the largest draw
first. Each machine has two power supplies, each on its own feed; either feed can carry the whole rack. Each machine has
a port on two front-end switches and a port on the out-of-band switch of its rack pair. Engines that span machines get a
fabric port for each accelerator, on the switch of its rail.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.contract.record import Record, replace
from archwright.deploy.deployment import Deployment, DeploymentSite, MachineGroup
from archwright.deploy.names import make_label

RACK_UNITS = 42
# Units at the top of each rack for two front-end switches and the out-of-band switch.
SWITCH_UNITS = 3
# Ports of a front-end switch; two of them go to the network above.
SWITCH_PORTS, UPLINK_PORTS = 32, 2
# Servers that keep state: the loss of a rack must not take two of them.
SPREAD_ROLES = ("platform", "storage")
# Gbit/s of ports. A front-end port has the speed of the machine's network, at most that of the switch.
FASTEST_FRONT_GBIT, DEFAULT_FRONT_GBIT, OOB_GBIT, FABRIC_GBIT = 100.0, 25.0, 1.0, 400.0
# Categories of the plan's lines that are bought once.
PRICED = ("purchase", "network", "storage", "platform", "licence")


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
    front_address: str
    oob_address: str
    pools: tuple[str, ...] = ()


class Rack(Record):
    """Each of two feeds must carry `power_w` alone. `liquid`: air cannot cool this draw."""

    name: str
    units: int
    power_w: float
    liquid: bool


class SwitchPort(NamedTuple):
    switch: str
    port: int
    speed_gbit: float
    host: str
    interface: str
    network: str


class BillItem(NamedTuple):
    """A line of the bill of materials. `amount`, `low` and `high` are in the plan's currency, None if not priced."""

    item: str
    quantity: int
    status: str
    source: str
    amount: float | None = None
    low: float | None = None
    high: float | None = None


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
    return tuple(_lay_out_site(site, number, limit_w) for number, site in enumerate(own))


def _lay_out_site(site: DeploymentSite, number: int, limit_w: float) -> SiteLayout:
    edge = not site.is_main and all(not group.accelerator_count for group in site.machines)
    hosts = [*_list_machines(site, number)]
    if not edge:
        hosts += _list_platform_hosts(site, hosts, number)
    placed, racks = ([*hosts], []) if edge else _fill_racks(site.name, hosts, limit_w)
    second = 20 + 4 * number
    networks = {"front": f"10.{second}.0.0/22", "out-of-band": f"10.{second + 1}.0.0/22"}
    if any(pool.nodes > 1 for pool in site.pools):
        networks["fabric"] = f"10.{second + 2}.0.0/16"
    ports = tuple(_list_ports(site, placed)) if not edge else ()
    return SiteLayout(site=site, racks=tuple(racks), hosts=tuple(placed), ports=ports, networks=networks, edge=edge)


def _list_machines(site: DeploymentSite, number: int) -> Iterator[Host]:
    """Return a host for each machine at the peak; a purchase of the same machine goes on counting."""
    counts = Counter[str]()
    for group in site.machines:
        for _ in range(group.peak):
            counts[make_label(group.machine)] += 1
            name = name_host(site, group.machine, counts[make_label(group.machine)])
            role = "accelerator" if group.accelerator_count else "processor"
            yield _make_host(name, role, group, number, counts.total())


def list_hosts(site: DeploymentSite) -> tuple[str, ...]:
    """Return the names of the machines with engines of a site."""
    return tuple(host.name for host in _list_machines(site, 0))


def name_host(site: DeploymentSite, kind: str, number: int) -> str:
    """Return the name of a machine: a label that says its site, the same in all files and in the cluster."""
    return f"{make_label(f'{site.name}-{kind}')}-{number:02d}"


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
        front_address=f"10.{second}.{offset // 250}.{offset % 250}",
        oob_address=f"10.{second + 1}.{offset // 250}.{offset % 250}",
        pools=group.pools,
    )


def _list_platform_hosts(site: DeploymentSite, machines: list[Host], site_number: int) -> Iterator[Host]:
    """Yield the servers without engines that the plan pays for at this site."""
    number = len(machines)
    for servers in site.servers:
        kind = f"{servers.role} server"
        group = MachineGroup(name=servers.role, machine=kind, kind="bought", mean=servers.count, peak=servers.count)
        group = replace(group, rack_units=servers.rack_units, power_w=servers.power_w)
        for index in range(servers.count):
            number += 1
            yield _make_host(name_host(site, servers.role, index + 1), servers.role, group, site_number, number)


def _fill_racks(site: str, hosts: list[Host], limit_w: float) -> tuple[list[Host], list[Rack]]:
    """Place hosts in racks, first fit with the largest draw first; servers that keep state go to different racks."""
    racks, placed = list[Rack](), list[Host]()
    for host in sorted(hosts, key=lambda one: (-one.power_w, one.name)):
        taken = {one.rack for one in placed if one.role == host.role and host.role in SPREAD_ROLES}
        space = (one for one in racks if one.units + host.units <= RACK_UNITS - SWITCH_UNITS)
        fitting = [one for one in space if one.power_w + host.power_w <= limit_w]
        rack = min(fitting, key=lambda one: one.name in taken, default=None)
        if rack is None:
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
        speed = min(FASTEST_FRONT_GBIT, speeds.get(host.machine) or DEFAULT_FRONT_GBIT)
        for side in (1, 2):
            yield SwitchPort(f"{site.name}-front-{2 * pair + side}", port, speed, host.name, f"nic{side}", "front")
        yield SwitchPort(f"{site.name}-oob-{pair + 1}", port, OOB_GBIT, host.name, "bmc", "out-of-band")
    # Hosts whose engines span machines: each accelerator has a port on the switch of its rail.
    spanning = {pool.pool.machine for pool in site.pools if pool.nodes > 1}
    for port, host in enumerate((one for one in hosts if one.machine in spanning), 1):
        for rail in range(host.accelerator_count):
            yield SwitchPort(f"{site.name}-rail-{rail + 1}", port, FABRIC_GBIT, host.name, f"fabric{rail}", "fabric")


def list_bill(deployment: Deployment, layouts: Iterable[SiteLayout]) -> tuple[BillItem, ...]:
    """Return what to provide: machines and switches counted, then the purchases that the plan prices."""
    counted = Counter[tuple[str, str]]()
    for layout in layouts:
        region = layout.site.region
        counted.update(
            (f"{one.machine} in {region}", "owned" if one.status == "owned" else "to buy") for one in layout.hosts
        )
        kinds = (one.removeprefix(f"{layout.site.name}-").rstrip("0123456789-") for one in layout.switches)
        counted.update((f"{kind} switch in {region}", "to provide") for kind in kinds)
        if layout.racks:
            counted[f"rack with two power feeds in {region}", "to provide"] = len(layout.racks)
    items = [BillItem(name, count, status, "machines of plan") for (name, status), count in counted.items()]
    for line in deployment.option.cost_lines:
        if line.once and line.category in PRICED and line.amount.value > 0:
            ends = (round(one, 2) for one in (line.amount.value, line.amount.low, line.amount.high))
            items.append(BillItem(line.name, 1, "priced in the plan", line.amount.basis or line.category, *ends))
    return tuple(items)
