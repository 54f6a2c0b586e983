"""Which efficiency row answers, and how much wider it gets."""

from __future__ import annotations

import pytest

from archwright.catalog.layers.efficiency_lookup import WIDEN_PER_KEY, choose_efficiency, choose_training
from archwright.catalog.load import load_catalog
from archwright.errors import CatalogError

CATALOG = load_catalog()
ROWS = CATALOG.efficiencies


def width(engine: str, quantisation: str, isa: str) -> float:
    row = next(r for r in ROWS if (r.engine, r.quantisation, r.isa) == (engine, quantisation, isa))
    return row.high_factor


def test_an_exact_row_is_returned_as_it_is() -> None:
    assert CATALOG.efficiency("llamacpp", "Q4_1", "avx512") in ROWS


def test_another_instruction_set_of_the_same_kind_widens_once() -> None:
    found = CATALOG.efficiency("llamacpp", "Q4_1", "sse")
    widest = max(width("llamacpp", "Q4_1", isa) for isa in ("avx512", "avx2", "neon"))
    assert found.high_factor == pytest.approx(widest * WIDEN_PER_KEY)
    assert (found.isa, found.confidence) == ("sse", "low")


def test_another_quantisation_on_the_same_set_widens_once() -> None:
    found = CATALOG.efficiency("llamacpp", "Q8_0", "avx512")
    assert found.high_factor == pytest.approx(width("llamacpp", "Q4_1", "avx512") * WIDEN_PER_KEY)
    assert found.quantisation == "Q8_0"


def test_a_processor_row_says_nothing_about_a_device() -> None:
    found = CATALOG.efficiency("llamacpp", "Q4_1", "gpu")
    assert found.high_factor >= width("llamacpp", "*", "*")
    assert found.confidence in ("low", "recalled")


def test_an_unknown_engine_gets_the_generic_row() -> None:
    found = CATALOG.efficiency("some-engine", "bf16", "gpu")
    assert (found.engine, found.high_factor, found.confidence) == ("some-engine", width("*", "*", "*"), "recalled")


def test_nothing_at_all() -> None:
    with pytest.raises(CatalogError) as caught:
        choose_efficiency([], "llamacpp", "Q4_1", "avx512")
    assert caught.value.code == "AW-CAT-05"


def test_training_takes_the_row_of_its_instruction_set_else_that_of_any() -> None:
    rows = CATALOG.training_efficiencies
    own = CATALOG.training_efficiency("text-lora", "avx512-bf16")
    assert own in rows and own.isa == "avx512-bf16"
    assert CATALOG.training_efficiency("text-lora", "neon").isa == "*"
    assert CATALOG.training_efficiency("image-classifier", "avx512-bf16").task == "image-classifier"
    with pytest.raises(CatalogError) as caught:
        choose_training([own], "text-lora", "avx2")
    assert caught.value.code == "AW-CAT-05"
