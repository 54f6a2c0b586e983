"""Machines to buy: prices made of parts, in proportion to them, and one cautious price of each."""

from __future__ import annotations

import itertools
import re

import pytest

from archwright.catalog.layers.freshness import parse_as_of
from archwright.catalog.load import load_catalog
from archwright.catalog.tables.cost_records import ServerSpec

CATALOG = load_catalog()
SUM = re.compile(r"onprem.csv (server\.\w+) plus (\d+) x (gpu\.[\w-]+); dated by the larger part")
RACKED = [node for node in CATALOG.nodes.values() if node.form == "rack" and node.accelerator]


def find_parts(node: ServerSpec) -> tuple[str, int, str] | None:
    found = SUM.search(node.source)
    return (found[1], int(found[2]), found[3]) if found else None


@pytest.mark.parametrize("node", [node for node in RACKED if find_parts(node)], ids=lambda node: node.id)
def test_a_derived_price_is_the_sum_of_its_parts(node: ServerSpec) -> None:
    parts = find_parts(node)
    assert parts is not None
    server, device, count = CATALOG.parts[parts[0]], CATALOG.parts[parts[2]], parts[1]
    assert count == node.accelerator_count
    assert node.price_low_usd == server.low + count * device.low
    assert node.price_usd == server.typical + count * device.typical
    assert node.price_high_usd == server.high + count * device.high
    larger = server if server.typical >= count * device.typical else device
    assert node.as_of == larger.as_of and parse_as_of(node.as_of) is not None


def test_a_price_is_in_proportion_to_its_accelerators() -> None:
    """At most 2.5 times the part, plus its share of a small server for two devices; a cautious price included."""
    small, checked = CATALOG.parts["server.small"], 0
    for node in CATALOG.sold_nodes():
        device = CATALOG.parts.get("gpu." + node.id.partition("x-")[2])
        if device is not None and node.form == "rack":
            share = small.high / min(node.accelerator_count, 2)
            assert node.price_usd / node.accelerator_count <= 2.5 * device.typical + share, node.id
            checked += 1
    assert checked >= 20


def test_a_larger_machine_of_a_family_costs_more_and_not_more_per_accelerator() -> None:
    families: dict[str, list[ServerSpec]] = {}
    for node in CATALOG.sold_nodes():
        if node.form == "rack" and node.accelerator:
            families.setdefault(node.accelerator, []).append(node)
    larger = 0
    for nodes in families.values():
        nodes.sort(key=lambda node: node.accelerator_count)
        for small, large in itertools.pairwise(nodes):
            assert large.price_usd > small.price_usd, large.id
            assert large.price_usd / large.accelerator_count <= small.price_usd / small.accelerator_count, large.id
            assert large.power_w > small.power_w and large.cores >= small.cores and large.ram_bytes >= small.ram_bytes
            larger += 1
    assert larger >= 10


def test_a_cautious_price_has_no_second_band_above_it() -> None:
    """The upper end of the quotes enters; however old the row, its band then reaches down only."""
    cautious = [node for node in CATALOG.sold_nodes() if CATALOG.is_cautious(node)]
    assert {CATALOG.freshness(node) for node in cautious} >= {"fresh", "stale"}
    for node in cautious:
        band = CATALOG.estimate(node, node.price_usd, "USD")
        assert band.high == band.value == node.price_usd and band.low < CATALOG.nodes[node.id].price_usd, node.id
    dated = CATALOG.nodes["8x-h100"]
    assert CATALOG.estimate(dated, dated.price_usd, "USD").high > dated.price_high_usd
    listed = next(offer for offer in CATALOG.offers if CATALOG.is_cautious(offer) and offer.on_demand_usd_per_hour)
    accepting = CATALOG.accept_stale_prices()
    (sold,) = (offer for offer in accepting.sold_offers(listed.provider) if offer.id == listed.id)
    price, stated = sold.on_demand_usd_per_hour, listed.on_demand_usd_per_hour
    assert price and stated
    band = CATALOG.estimate(sold, price, "USD/h")
    assert band.high == pytest.approx(price) and band.low <= stated / 1.5 and price == pytest.approx(stated * 1.6)
