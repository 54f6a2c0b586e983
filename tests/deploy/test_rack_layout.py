"""Racks, switch ports and the bill of own sites: what an engineer carries into the hall must add up."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable

import pytest

from archwright.catalog.catalog import Catalog
from archwright.contract.record import replace
from archwright.deploy.deployment import Deployment
from archwright.deploy.hosts.rack_layout import PRICED, RACK_UNITS, SWITCH_UNITS, SiteLayout, lay_out_sites, list_bill
from archwright.deploy.rendering.bundle import FileBundle

CASES = ("clinic", "manufacturer")


@pytest.fixture(params=CASES)
def deployment(request: pytest.FixtureRequest, made_deployment: Callable[..., Deployment]) -> Deployment:
    return made_deployment(request.param, "onprem")


@pytest.fixture
def layouts(deployment: Deployment, catalog: Catalog) -> tuple[SiteLayout, ...]:
    return lay_out_sites(deployment, catalog)


def test_every_machine_of_the_plan_has_a_place(deployment: Deployment, layouts: tuple[SiteLayout, ...]) -> None:
    planned = Counter[str]()
    for site in (site for site in deployment.sites if site.placement == "on-premises"):
        planned.update({group.machine: group.peak for group in site.machines})
    placed = Counter(host.machine for layout in layouts for host in layout.hosts if host.pools)
    assert planned
    assert placed >= planned


def test_no_rack_is_too_full_or_draws_too_much(layouts: tuple[SiteLayout, ...], catalog: Catalog) -> None:
    limit_w = catalog.parameter("cooling.air").value * 1000
    for layout in layouts:
        for rack in layout.racks:
            hosts = [host for host in layout.hosts if host.rack == rack.name]
            taken = Counter(unit for host in hosts for unit in range(host.unit, host.unit + host.units))
            assert max(taken) <= RACK_UNITS - SWITCH_UNITS
            assert max(taken.values()) == 1, "two hosts share a unit"
            assert sum(host.power_w for host in hosts) == pytest.approx(rack.power_w)
            assert rack.power_w <= limit_w or rack.liquid


def test_a_rack_that_air_cannot_cool_says_so(deployment: Deployment, catalog: Catalog) -> None:
    sites = tuple(
        replace(site, machines=tuple(replace(group, power_w=120_000.0) for group in site.machines))
        for site in deployment.sites
    )
    hot = lay_out_sites(replace(deployment, sites=sites), catalog)
    racks = [rack for layout in hot for rack in layout.racks if rack.power_w > 100_000]
    assert racks
    assert all(rack.liquid for rack in racks)


def test_each_port_has_one_cable_and_each_host_two_front_ends(layouts: tuple[SiteLayout, ...]) -> None:
    for layout in (one for one in layouts if not one.edge):
        cables = Counter((port.switch, port.port) for port in layout.ports)
        assert set(cables.values()) == {1}
        for host in layout.hosts:
            own = [port for port in layout.ports if port.host == host.name and port.network == "front"]
            assert len({port.switch for port in own}) == 2


def test_engines_that_span_machines_get_a_port_for_each_accelerator(deployment: Deployment, catalog: Catalog) -> None:
    main = deployment.main_site
    spanning = replace(main, pools=tuple(replace(pool, nodes=2) for pool in main.pools))
    sites = tuple(spanning if site is main else site for site in deployment.sites)
    layout = next(one for one in lay_out_sites(replace(deployment, sites=sites), catalog) if one.has_fabric)
    rails = Counter(port.host for port in layout.ports if port.network == "fabric")
    hosts = {host.name: host.accelerator_count for host in layout.hosts if host.accelerator_count}
    assert rails == hosts


def test_the_bill_has_the_purchases_of_the_plan(deployment: Deployment, layouts: tuple[SiteLayout, ...]) -> None:
    bill = list_bill(deployment, layouts)
    lines = [
        line for line in deployment.option.cost_lines if line.once and line.category in PRICED and line.amount.value > 0
    ]
    assert sum(item.amount or 0.0 for item in bill) == pytest.approx(sum(line.amount.value for line in lines), abs=1.0)
    hosts = sum(len(layout.hosts) for layout in layouts)
    counted = sum(item.quantity for item in bill if item.status in ("owned", "to buy"))
    assert counted == hosts


def test_addresses_are_unique(layouts: tuple[SiteLayout, ...]) -> None:
    found = [
        address for layout in layouts for host in layout.hosts for address in (host.front_address, host.oob_address)
    ]
    assert len(found) == len(set(found))


@pytest.mark.parametrize("name", CASES)
def test_the_lists_are_tables_with_as_many_cells_as_their_header(
    name: str, made_bundle: Callable[..., FileBundle]
) -> None:
    bundle = made_bundle(name, "onprem")
    for path, file in bundle.files.items():
        if path.endswith(".csv"):
            rows = list(csv.reader(file.text.splitlines()))
            assert len(rows) > 1, path
            assert {len(row) for row in rows} == {len(rows[0])}, path
