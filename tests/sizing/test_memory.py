"""Exact memory against known sizes, and what fits where."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.catalog.facts import Catalog
from archwright.catalog.load import load
from archwright.sizing.memory import CacheDemand, engine_memory, holds, weights_bytes
from archwright.sizing.parallelism import divides

CATALOG = load()
CPU = CATALOG.efficiency("llamacpp", "Q4_1", "avx512")
GPU = CATALOG.efficiency("vllm", "fp8", "gpu")
SMALL = CATALOG.models["SmolLM2-135M-Instruct"]
LARGE = CATALOG.models["Llama-3.3-70B-Instruct"]
GIB = 2**30


def test_the_file_counts_when_there_is_one() -> None:
    assert weights_bytes(SMALL, 5.0, 98_362_432) == 98_362_432


def test_70_billion_parameters_in_eight_bits() -> None:
    assert weights_bytes(LARGE, 8.0) == 70.55e9


def test_an_engine_on_a_processor_reserves_every_slot() -> None:
    found = engine_memory(SMALL, 98_362_432, CPU, CacheDemand(4, 2048, 100))
    assert found.cache == 4 * 2048 * 23_040
    assert found.total == 98_362_432 + found.cache + CPU.memory_overhead_bytes


def test_the_measured_engine_lies_within_a_tenth() -> None:
    """Proportional set size of the idle engine, 4 slots of 2,048 tokens: 358 MB (bench/engine/measure.py)."""
    assert engine_memory(SMALL, 98_362_432, CPU, CacheDemand(4, 2048, 100)).total == pytest.approx(358e6, rel=0.1)


def test_a_paged_cache_holds_what_runs_but_at_least_one_whole_context() -> None:
    few = engine_memory(LARGE, 70.55e9, GPU, CacheDemand(1, 32768, 1000))
    many = engine_memory(LARGE, 70.55e9, GPU, CacheDemand(64, 32768, 1000))
    assert few.cache == 32768 * 327_680
    assert many.cache == 64 * 1000 * 327_680


def test_the_overhead_is_paid_on_every_device() -> None:
    demand = CacheDemand(1, 1024, 100)
    one, four = (engine_memory(LARGE, 70.55e9, GPU, demand, count) for count in (1, 4))
    assert four.overhead == 4 * one.overhead


@given(st.integers(1, 64), st.integers(1, 64), st.integers(256, 32768))
def test_more_slots_and_longer_contexts_never_need_less(slots: int, more: int, context: int) -> None:
    for efficiency in (CPU, GPU):
        base = engine_memory(SMALL, 1e8, efficiency, CacheDemand(slots, context, 200.0)).total
        assert engine_memory(SMALL, 1e8, efficiency, CacheDemand(slots + more, context, 200.0)).total >= base
        assert engine_memory(SMALL, 1e8, efficiency, CacheDemand(slots, context + more, 200.0)).total >= base


def test_room_is_left_for_the_system() -> None:
    needed = engine_memory(SMALL, 98_362_432, CPU, CacheDemand(4, 2048, 100))
    assert holds("cpu", needed.total / 0.8 + 1, needed)
    assert not holds("cpu", needed.total, needed)


@pytest.mark.parametrize(("device_gib", "count"), [(180, 1), (80, 2), (40, 4), (24, 8)])
def test_the_fewest_devices_that_hold_a_70b_model(device_gib: int, count: int) -> None:
    weights, demand = weights_bytes(LARGE, 8.0), CacheDemand(16, 8192, 3000)

    def held(devices: int) -> bool:
        return holds("gpu", float(device_gib * GIB * devices), engine_memory(LARGE, weights, GPU, demand, devices))

    assert held(count) and not any(held(fewer) for fewer in (1, 2, 4) if fewer < count)


def test_heads_are_dealt_evenly(catalog: Catalog) -> None:
    assert divides(SMALL, 1)
    assert divides(SMALL, 3)
    assert not divides(SMALL, 2)
    assert divides(catalog.models["Llama-3.1-8B-Instruct"], 8)
