"""Which efficiency row answers, and how much wider it gets."""

from __future__ import annotations

import pytest

from archwright.catalog.layers.efficiency_lookup import (
    UNSEEN_HIGH_FACTOR,
    UNSEEN_LOW_FACTOR,
    WIDEN_PER_KEY,
    choose_efficiency,
    choose_training,
    derive_for_engine,
)
from archwright.catalog.load import load_catalog
from archwright.contract.record import replace
from archwright.errors import CatalogError

from ...sizing.conftest import ENGINE

CATALOG = load_catalog()
ROWS, CPU = CATALOG.efficiencies, ("avx2", "neon")


def width(engine: str, quantisation: str, isa: str) -> float:
    row = next(r for r in ROWS if (r.engine, r.quantisation, r.isa) == (engine, quantisation, isa))
    return row.high_factor


AVX2_WIDTHS = [row.high_factor for row in ROWS if row.isa == "avx2" and row.engine == "llamacpp"]


@pytest.mark.parametrize(
    ("keys", "factor", "confidence"),
    [
        # Another instruction set of the same kind, another quantisation of the same set: the widest row, widened once.
        (("llamacpp", "Q4_1", "sse"), max(width("llamacpp", "Q4_1", isa) for isa in CPU) * WIDEN_PER_KEY, "low"),
        (("llamacpp", "Q3_K_M", "avx2"), max(AVX2_WIDTHS) * WIDEN_PER_KEY, "low"),
        # An unknown engine gets the generic row.
        (("some-engine", "bf16", "gpu"), width("*", "*", "*"), "recalled"),
    ],
)
def test_the_nearest_row_answers_under_the_asked_keys(
    keys: tuple[str, str, str], factor: float, confidence: str | None
) -> None:
    found = CATALOG.efficiency(*keys)
    assert (found.engine, found.quantisation, found.isa) == keys
    assert found.high_factor == pytest.approx(factor)
    assert confidence in (None, found.confidence)


def test_an_exact_row_is_returned_as_it_is() -> None:
    assert CATALOG.efficiency("llamacpp", "Q4_1", "avx2") in ROWS
    with pytest.raises(CatalogError) as caught:
        choose_efficiency([], "llamacpp", "Q4_1", "avx2")
    assert caught.value.code == "AW-CAT-05"


def test_only_the_very_engine_of_a_row_keeps_its_band() -> None:
    row = CATALOG.efficiency("llamacpp", "Q4_1", "avx2")
    assert derive_for_engine(row, ENGINE, threads=1) is row
    changes = ({"build": "xllamacpp 1"}, {"isa": "amx"}, {"processor": "GenuineIntel 6-207-2 Xeon"})
    for report in (None, *(replace(ENGINE, **change) for change in changes)):
        derived = derive_for_engine(row, report, threads=1)
        assert derived.confidence == "low" and derived.source.startswith("derived, because ")
        assert (derived.low_factor, derived.high_factor) == (UNSEEN_LOW_FACTOR, UNSEEN_HIGH_FACTOR)
    assert "threads 4 instead of 1" in derive_for_engine(row, ENGINE, threads=4).source


def test_a_row_that_was_fitted_over_processors_has_their_band_already() -> None:
    row = CATALOG.efficiency("llamacpp", "Q4_K_M", "amx")
    assert row.build == "" and derive_for_engine(row, None, threads=0) is row


def test_a_processor_row_says_nothing_about_a_device() -> None:
    found = CATALOG.efficiency("llamacpp", "Q4_1", "gpu")
    assert found.high_factor >= width("llamacpp", "*", "*")
    assert found.confidence in ("low", "recalled")


def test_training_takes_the_row_of_its_instruction_set_else_that_of_any() -> None:
    rows = CATALOG.training_efficiencies
    own = CATALOG.training_efficiency("text-lora", "avx512-bf16")
    assert own in rows and own.isa == "avx512-bf16"
    assert CATALOG.training_efficiency("text-lora", "neon").isa == "*"
    assert CATALOG.training_efficiency("image-classifier", "avx512-bf16").task == "image-classifier"
    with pytest.raises(CatalogError) as caught:
        choose_training([own], "text-lora", "avx2")
    assert caught.value.code == "AW-CAT-05"
