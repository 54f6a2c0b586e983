"""Where processor and accelerator share one memory, the launch line leaves the machine its part."""

from __future__ import annotations

import re

import pytest

from archwright.catalog.catalog import Catalog
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.capacity.candidates import CandidateMachine, list_tasks
from archwright.plan.options.option_builder import SHARED_MEMORY_SHARE, PoolWriter
from archwright.sizing.hardware.machine import Machine
from archwright.sizing.step_time.step_work import WORKSPACE_BYTES

from .conftest import Read
from .test_planning_edge_cases import sized

FLAG = re.compile(r"--gpu-memory-utilization=(0\.\d\d)")


def find_share(needs_of: Read, catalog: Catalog, device: str, slots: int) -> float | None:
    """Return the share of memory in the launch line of the same load on this device."""
    needs, _ = needs_of("startup")
    _, host, steady = sized(needs, catalog)
    accelerator = catalog.accelerators[device]
    machine = Machine(f"1x {device}", accelerator, 1, 20, 128e9)
    task = list_tasks(needs, catalog)[0]
    moved = CandidateMachine(host.where, machine)
    pool = PoolWriter(catalog, PlanProvenance()).build_pool(task, moved, steady._replace(slots=slots), 1)
    found = FLAG.search(" ".join(pool.launch.arguments))
    return float(found[1]) if found else None


@pytest.mark.parametrize("slots", [1, 8, 5000])
def test_a_shared_memory_holds_weights_and_slots_and_leaves_the_rest(
    slots: int, needs_of: Read, catalog: Catalog
) -> None:
    share = find_share(needs_of, catalog, "GB10", slots)
    assert share is not None and 0 < share <= SHARED_MEMORY_SHARE
    assert share * catalog.accelerators["GB10"].memory_bytes > WORKSPACE_BYTES
    assert (share == SHARED_MEMORY_SHARE) == (slots == 5000)


def test_a_device_with_its_own_memory_keeps_the_engines_default(needs_of: Read, catalog: Catalog) -> None:
    assert find_share(needs_of, catalog, "H100-SXM-80GB", 8) is None
