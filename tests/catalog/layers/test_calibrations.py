"""A calibration counts for its model exactly, for others half; the user's own facts count more."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from archwright.catalog.layers.calibrations import Calibration, apply_calibrations, read_calibrations
from archwright.catalog.load import load_catalog
from archwright.contract.record import replace
from archwright.home import Home, write_json

CATALOG = load_catalog()
SHIPPED = CATALOG.efficiency("llamacpp", "Q4_K_M", "avx512")
FOUR, EIGHT, LARGE = (CATALOG.models[name] for name in ("Qwen3-4B", "Qwen3-8B", "Llama-3.3-70B-Instruct"))
ROW = replace(SHIPPED, decode_share_of_matmul=0.3, low_factor=1.15, high_factor=1.15, confidence="high", source="here")
KEYS = ("llamacpp", "Q4_K_M", "avx512")


def calibration(model: str, parameters: int, **changes: float) -> Calibration:
    return Calibration(model=model, parameters=parameters, row=replace(ROW, **changes), measured_at=1.0)


def test_its_own_model_gets_the_measured_row_and_others_the_mean() -> None:
    made = (calibration(FOUR.id, FOUR.parameters),)
    assert apply_calibrations(SHIPPED, FOUR, made) == ROW
    other = apply_calibrations(SHIPPED, EIGHT, made)
    assert other.decode_share_of_matmul == pytest.approx(math.sqrt(0.3 * SHIPPED.decode_share_of_matmul))
    assert ROW.high_factor < other.high_factor < SHIPPED.high_factor
    assert other.memory_overhead_bytes == SHIPPED.memory_overhead_bytes and "here" in other.source


def test_the_most_similar_size_counts_and_no_other_format() -> None:
    made = (calibration("tiny", 10**8, decode_share_of_matmul=0.1), calibration("big", 5 * 10**10))
    assert apply_calibrations(SHIPPED, LARGE, made).decode_share_of_matmul == pytest.approx(
        math.sqrt(0.3 * SHIPPED.decode_share_of_matmul)
    )
    other = CATALOG.efficiency("llamacpp", "Q8_0", "avx512")
    assert apply_calibrations(other, LARGE, made) is other


def test_the_home_s_file_is_read_at_once_and_the_user_s_fact_wins(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.folder("measured")
    assert load_catalog(home).efficiency(*KEYS, FOUR) == SHIPPED
    write_json(home.engine_calibrations, (calibration(FOUR.id, FOUR.parameters),))
    assert load_catalog(home).efficiency(*KEYS, FOUR) == ROW
    home.catalog_overlay.parent.mkdir()
    name = "llamacpp Q4_K_M avx512 cpu"
    home.catalog_overlay.write_text(
        f"efficiencies: {{{name}: {{decode_share_of_matmul: 0.5, reason: own test, until: 2099-12-31}}}}\n"
    )
    assert load_catalog(home).efficiency(*KEYS, FOUR).decode_share_of_matmul == 0.5


@pytest.mark.parametrize("text", ["", "{}", '[{"model": "x"}]', "\x00"])
def test_an_unreadable_file_is_no_calibration(tmp_path: Path, text: str) -> None:
    home = Home(tmp_path)
    home.folder("measured")
    home.engine_calibrations.write_text(text)
    assert read_calibrations(home) == ()
