"""Exact memory against known sizes, and what fits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.sizing.conftest import CATALOG, SMALL

from archwright.catalog.catalog import Catalog
from archwright.sizing.model.engine_memory import compute_engine_memory, fits_memory, weights_bytes
from archwright.sizing.model.parallel_layout import can_split_heads

CPU = CATALOG.efficiency("llamacpp", "Q4_1", "avx2")
LARGE = CATALOG.models["Llama-3.3-70B-Instruct"]


def test_the_file_counts_when_there_is_one() -> None:
    assert weights_bytes(SMALL, 5.0, 98_362_432) == 98_362_432
    assert weights_bytes(LARGE, 8.0) == 70.55e9


def test_an_engine_on_a_processor_reserves_every_slot() -> None:
    """Measured proportional set size of this idle engine: 358 MB (bench/engine/measure.py)."""
    found = compute_engine_memory(SMALL, 98_362_432, CPU, 4, 2048)
    assert found.cache == 4 * 2048 * 23_040
    assert found.total == 98_362_432 + found.cache + CPU.memory_overhead_bytes == pytest.approx(358e6, rel=0.1)


@given(st.integers(1, 64), st.integers(1, 64), st.integers(256, 32768))
def test_more_slots_and_longer_contexts_never_need_less(slots: int, more: int, context: int) -> None:
    base = compute_engine_memory(SMALL, 1e8, CPU, slots, context).total
    assert compute_engine_memory(SMALL, 1e8, CPU, slots + more, context).total > base
    assert compute_engine_memory(SMALL, 1e8, CPU, slots, context + more).total > base


def test_room_is_left_for_the_system() -> None:
    needed = compute_engine_memory(SMALL, 98_362_432, CPU, 4, 2048)
    assert fits_memory(needed.total / 0.8 + 1, needed)
    assert not fits_memory(needed.total, needed)


def test_heads_are_dealt_evenly(catalog: Catalog) -> None:
    assert [can_split_heads(SMALL, count) for count in (1, 2, 3)] == [True, False, True]
    assert can_split_heads(catalog.models["Llama-3.1-8B-Instruct"], 8)
