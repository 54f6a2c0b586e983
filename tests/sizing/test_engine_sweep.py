"""The shipped shares of the embedded engine against a sweep over sizes and quantisations (bench/engine/sweep.csv).

The sweep: one thread of a shared 2-core AVX-512 machine, 28 November 2026, least of several runs; models with random
weights. The figures of each size are predicted from shares fitted without it.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median

import pytest
from bench.engine.fit_shares import NOISE, SHARES, format_table, leave_sizes_out, list_errors, read_sweep

from archwright.catalog.tables.records import Efficiency
from archwright.contract.estimate import within_factor
from archwright.contract.record import replace
from archwright.sizing.hardware.roofline import BANDWIDTH_SCALE, THREADS_SCALE
from archwright.sizing.model.engine_memory import compute_engine_memory

from .conftest import CATALOG

POINTS = read_sweep()
FORMATS = tuple(dict.fromkeys(point.format for point in POINTS if point.threads == 1))
# The shipped row is that of a real file of one size (tests/sizing/hardware/test_roofline.py).
REAL = "Q4_1"


def row_of(kind: str) -> Efficiency:
    return CATALOG.efficiency("llamacpp", kind, "avx2")


@pytest.mark.parametrize("phase", SHARES)
def test_a_size_that_the_fit_never_saw_is_predicted(phase: str) -> None:
    errors: list[float] = []
    for kind in FORMATS:
        points = [point for point in POINTS if point.threads == 1 and point.format == kind]
        errors += [ratio for (_, of, _), ratio in leave_sizes_out(points, row_of(kind)).items() if of == phase]
    assert len(errors) >= 20
    assert median(abs(ratio - 1) for ratio in errors) <= 0.15


def test_the_shipped_bands_hold_the_sweep() -> None:
    outside, count = list[tuple[str, object, float]](), 0
    for kind in FORMATS:
        row = row_of(kind)
        errors = list_errors([point for point in POINTS if point.threads == 1 and point.format == kind], row)
        low, high = 1 / row.low_factor / NOISE, row.high_factor * NOISE
        if kind != REAL:
            count += len(errors)
            outside += [(kind, key, ratio) for key, ratio in errors.items() if not low <= ratio <= high]
    assert len(outside) <= 0.1 * count, outside
    assert not [name for name, *_ in outside if name == "Q4_K_M"], "the default format, from 0.6B to 8B"


def test_the_document_shows_this_table() -> None:
    document = Path(__file__).parents[2] / "docs" / "accuracy.md"
    assert format_table(POINTS) in document.read_text(encoding="utf-8")


def test_two_threads_are_as_fast_as_the_scaled_probe_says() -> None:
    points = [point for point in POINTS if point.threads == 2]
    for point in points:
        compute, bandwidth = point.hardware.compute_flops_per_s, point.hardware.bandwidth_bytes_per_s
        hardware = replace(
            point.hardware,
            compute_flops_per_s=compute.scaled(2**THREADS_SCALE),
            bandwidth_bytes_per_s=bandwidth.scaled(2**BANDWIDTH_SCALE),
        )
        row = row_of(point.format)
        for key, ratio in list_errors([point._replace(hardware=hardware)], row).items():
            assert 1 / row.low_factor / NOISE <= ratio <= row.high_factor * NOISE, key
    assert points


def test_memory_is_the_file_the_cache_and_a_constant() -> None:
    """Four slots of 2,048 tokens, steps of 64 tokens; files that are loaded by reading, not mapped."""
    measured = [point for point in POINTS if point.peak_bytes]
    for point in measured:
        found = compute_engine_memory(point.model, point.file_bytes, row_of(point.format), 4, 2048, 64).total
        assert within_factor(found, 1.1, "bytes").contains(point.peak_bytes), (point.model.id, point.format)
    assert len(measured) >= 8


def test_a_narrow_model_gets_the_row_of_the_format_that_its_width_allows() -> None:
    """576 and 960 are no multiples of 256: llama.cpp stores most weights of such a Q4_K_M file as Q5_0."""
    small, large = CATALOG.models["SmolLM2-135M-Instruct"], CATALOG.models["Qwen3-4B"]
    assert CATALOG.efficiency("llamacpp", "Q4_K_M", "avx2", small) == row_of("Q5_0")
    assert CATALOG.efficiency("llamacpp", "Q4_K_M", "avx2", large) == row_of("Q4_K_M")
    assert CATALOG.efficiency("llamacpp", "Q4_1", "avx2", small) == row_of("Q4_1")
