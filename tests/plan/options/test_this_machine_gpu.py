"""Pools on the accelerators of this machine: the reports of nvidia-smi become rows, pools and launch lines."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from archwright.catalog.catalog import Catalog
from archwright.catalog.load import load_catalog
from archwright.contract.listener import ListenerSettings
from archwright.contract.needs import Needs, NeedsSource
from archwright.contract.plan import MachineFacts, Option, Plan
from archwright.contract.record import replace
from archwright.deploy.single_machine import build_bundle
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.decision.selection import Concessions
from archwright.plan.demand.forecast import Demand, list_text_demands
from archwright.plan.options.this_machine_gpu import AcceleratorPlanner, resolve_accelerator_report
from archwright.plan.planner import make_plan

from ..conftest import GONE, MACHINE, NOW, edit

Make = Callable[..., Plan]
Read = Callable[..., tuple[Needs, NeedsSource]]
H100, SMALL = "NVIDIA H100 80GB HBM3 (79.6 GiB)", "NVIDIA GeForce RTX 4090 (24.0 GiB)"
ANY_MODEL = {"workloads.0.model": GONE, "budget.per_month": 600}


def machine(*gpus: str, installed: bool = True) -> MachineFacts:
    facts = replace(MACHINE, disk_free_bytes=500 << 30, memory_bytes=128 << 30)
    return replace(facts, gpus=gpus, programs=("vllm",) if installed else ())


def local(plan: Plan) -> Option:
    return next(option for option in plan.options if option.placement == "this-machine")


@pytest.mark.parametrize(
    ("report", "row", "gib"),
    [
        (H100, "H100-SXM-80GB", 79.6),
        ("NVIDIA H100 PCIe (79.6 GiB)", "H100-PCIe-80GB", 79.6),
        ("NVIDIA A100-SXM4-40GB (39.6 GiB)", "A100-40GB-SXM", 39.6),
        ("NVIDIA RTX 6000 Ada Generation (48.0 GiB)", "RTX-6000-Ada", 48.0),
        ("Tesla T4 (15.0 GiB)", "T4", 15.0),
        ("NVIDIA L4", "L4", 24.0),
    ],
)
def test_the_report_of_the_tool_is_a_row_with_at_most_its_memory(report: str, row: str, gib: float) -> None:
    found = resolve_accelerator_report(report, load_catalog())
    assert (found.id, round(found.memory_bytes / 2**30, 1)) == (row, gib)


def test_the_best_model_that_fits_is_served_and_predicted(needs_of: Read, catalog: Catalog) -> None:
    needs, source = needs_of("desk", edit(ANY_MODEL))
    plan = make_plan(needs, source, catalog, machine(H100), NOW, concessions=Concessions(download=True))
    (pool,) = local(plan).pools
    assert plan.chosen == "this-machine" and catalog.models[pool.model].parameters > 1e10
    assert (pool.launch.engine, pool.accelerator, pool.accelerator_count) == ("vllm", "H100-SXM-80GB", 1)
    parsers = {"reasoning_parser": "openai_gptoss", "tool_parser": "openai"}
    plain = {"tensor": 1, "format": pool.quantisation, "gpu_memory_utilization": 0.92}
    assert pool.launch.settings == {**plain, **parsers}
    assert pool.artefact is not None and pool.artefact.form == "safetensors"
    assert pool.artefact.repository == load_catalog().hub_models[pool.model].repository
    assert pool.launch.startup_s > 120 < 2**30 < pool.artefact.size_bytes
    predicted = {one.metric: one.estimate for one in plan.predictions if one.workload == "assistant"}
    assert predicted["tpot_s"].low < predicted["tpot_s"].value < predicted["tpot_s"].high < 0.05
    engine, _ = build_bundle(plan, ListenerSettings(), "sqlite://").processes
    assert engine.startup_deadline_s == pytest.approx(5 * pool.launch.startup_s)
    assert engine.environment == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": "0"}
    assert local(plan).power_kw is not None and local(plan).power_kw.value > 0.7  # type: ignore[union-attr]


@pytest.fixture
def demand(needs_of: Read) -> Demand:
    return list_text_demands(needs_of("desk", edit(ANY_MODEL))[0])[0]


@pytest.fixture
def planner_of(needs_of: Read, catalog: Catalog) -> Callable[..., AcceleratorPlanner]:
    needs, _ = needs_of("desk", edit(ANY_MODEL))
    return lambda *gpus: AcceleratorPlanner(needs, catalog, PlanProvenance(), machine(*gpus))


def test_small_memory_takes_a_smaller_model_or_several_cards(
    planner_of: Callable[..., AcceleratorPlanner], demand: Demand, catalog: Catalog
) -> None:
    large, small = catalog.models["Qwen3-8B"], catalog.models["Qwen3-4B"]
    both = (small, large)
    card = "NVIDIA GeForce RTX 4090 (10.0 GiB)"
    one = planner_of(card).plan_pool(demand, both, download=True)
    assert one is not None and (one.pool.model, one.pool.quantisation) == (small.id, "fp8")
    shared = planner_of(card, card).plan_pool(demand, both, download=True)
    assert shared is not None and shared.pool.model == large.id
    assert (shared.pool.accelerator_count, shared.pool.launch.settings["tensor"]) == (2, 2)
    assert shared.pool.launch.environment["CUDA_VISIBLE_DEVICES"] == "0,1" and shared.draw_w == 900
    tiny = planner_of("NVIDIA GeForce RTX 4090 (7.0 GiB)")
    assert tiny.plan_pool(demand, both, download=True) is None, "four bits need a repository that holds them"


def test_an_engine_leaves_the_machine_its_part_of_a_shared_memory(
    planner_of: Callable[..., AcceleratorPlanner], demand: Demand, catalog: Catalog
) -> None:
    models = (catalog.models["Qwen3-8B"],)
    found = {name: planner_of(name).plan_pool(demand, models, download=True) for name in ("NVIDIA GB10", H100)}
    shares = [one.pool.launch.settings["gpu_memory_utilization"] for one in found.values() if one is not None]
    assert len(shares) == 2 and 0.15 < float(shares[0]) <= 0.85 and shares[1] == 0.92


def test_without_a_folder_in_the_home_the_better_model_is_proposed(
    planner_of: Callable[..., AcceleratorPlanner], demand: Demand, catalog: Catalog
) -> None:
    planner, models = planner_of(H100), (catalog.models["Qwen3-8B"], catalog.models["Qwen3-4B"])
    assert planner.plan_pool(demand, models, download=False) is None
    (proposal,) = planner.proposals
    assert (proposal.artefact.repository, proposal.instead) == ("Qwen/Qwen3-8B", "")
    assert proposal.workload == "assistant" and "on 1x H100-SXM-80GB" in proposal.reason


def test_workloads_get_their_own_accelerators_of_the_larger_kind(
    planner_of: Callable[..., AcceleratorPlanner], demand: Demand, catalog: Catalog
) -> None:
    planner, models = planner_of(SMALL, H100, H100), (catalog.models["Qwen3-8B"],)
    pools = [planner.plan_pool(demand, models, download=True) for _ in range(3)]
    seen = [found and found.pool.launch.environment["CUDA_VISIBLE_DEVICES"] for found in pools]
    assert seen == ["1", "2", None] and planner.notes == []


def test_accelerators_that_do_not_serve_are_named_with_the_way(plan_of: Make, desk: Plan) -> None:
    plan = plan_of("desk", None, machine(H100, "Some Card 9000 (4.0 GiB)", installed=False))
    (pool,) = local(plan).pools
    assert pool.launch.engine == desk.pools[0].launch.engine
    notes = " ".join(local(plan).notes)
    assert "1 x H100-SXM-80GB not used: vLLM is not installed" in notes and "pip install 'vllm>=0.18'" in notes
    assert "Some Card 9000 (4.0 GiB) is not used" in notes
