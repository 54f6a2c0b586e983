"""What follows a machine at the end of its life."""

from __future__ import annotations

import pytest

from archwright.catalog.facts import Catalog
from archwright.contract.record import replace
from archwright.plan.successor import successor


def test_another_makers_type_follows_where_it_does_as_much_for_less(catalog: Catalog) -> None:
    nodes = catalog.nodes
    found = successor(nodes["8x-h100"], (nodes["8x-h100"], nodes["8x-mi300x"]), catalog)
    old, new = (catalog.accelerators[name] for name in ("H100-SXM-80GB", "MI300X"))
    pace = catalog.work_rates["serving.speed-AMD"].typical
    assert found.node.id == "8x-mi300x"
    assert found.machines == pytest.approx(old.flops["bf16"] / new.flops["bf16"] / pace)
    assert found.usd < nodes["8x-h100"].price_usd


def test_nothing_cheaper_leaves_its_own_type(catalog: Catalog) -> None:
    nodes = catalog.nodes
    dear = replace(nodes["8x-mi300x"], price_usd=1e9)
    assert successor(nodes["8x-h100"], (nodes["8x-h100"], dear), catalog) == (nodes["8x-h100"], 1.0)


def test_a_machine_of_another_size_or_sort_does_not_follow(catalog: Catalog) -> None:
    nodes = catalog.nodes
    for name in ("1x-l4", "cpu-2-socket"):
        assert successor(nodes[name], nodes.values(), catalog).node.id == name
    bare = replace(nodes["8x-h100"], accelerator=None, price_usd=1.0)
    assert successor(nodes["8x-h200"], (bare,), catalog).node.id == "8x-h200"


def test_host_processors_are_compared_by_cores_and_memory(catalog: Catalog) -> None:
    old = catalog.nodes["cpu-2-socket"]
    half = replace(old, id="half", cores=old.cores // 2, price_usd=old.price_usd / 3)
    assert successor(old, (half,), catalog) == (half, 2.0)
