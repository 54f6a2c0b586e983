"""Bands of predicted speeds."""

from __future__ import annotations

import math

import pytest

from archwright.catalog.catalog import Catalog
from archwright.contract.estimate import Estimate, exact_estimate
from archwright.contract.record import replace
from archwright.sizing.hardware.uncertainty import basis_kind, cap_band, name_stratum, slowdown_factors, widen_band


def test_an_exact_rate_leaves_the_band_of_the_row(catalog: Catalog) -> None:
    row = catalog.efficiency("llamacpp", "Q4_1", "avx2")
    factors = slowdown_factors(row, exact_estimate(100e9, "FLOP/s"), 11)
    assert factors[0] == pytest.approx(1 / row.low_factor)
    assert factors[5] == pytest.approx(1.0)
    assert factors[-1] == pytest.approx(row.high_factor)
    assert list(factors) == sorted(factors)


def test_an_uncertain_rate_widens_each_side_by_its_own(catalog: Catalog) -> None:
    row = catalog.efficiency("llamacpp", "Q4_1", "avx2")
    rate = Estimate(value=100.0, low=80.0, high=100.0, unit="FLOP/s")
    fast, slow = slowdown_factors(row, rate, 2)
    assert fast == pytest.approx(1 / row.low_factor)
    assert slow == pytest.approx(math.exp(math.hypot(math.log(row.high_factor), math.log(1.25))))


def test_noise_moves_both_ends_out() -> None:
    found = widen_band(1.0, (0.8, 1.5), 1.2, "s", "b")
    assert found.low == pytest.approx(math.exp(-math.hypot(math.log(1.25), math.log(1.2))))
    assert found.high == pytest.approx(math.exp(math.hypot(math.log(1.5), math.log(1.2))))
    assert (found.value, found.unit, found.basis, found.level) == (1.0, "s", "b", 0.9)


def test_a_rate_that_may_be_nothing_starts_at_nothing() -> None:
    assert widen_band(2.0, (0.0, 3.0), 1.1, "tokens/s", "b").low == 0.0
    nothing = widen_band(0.0, (0.0, 0.0), 1.1, "tokens/s", "b")
    assert (nothing.low, nothing.value, nothing.high) == (0.0, 0.0, 0.0)


def test_the_stratum_says_how_the_row_came_about(catalog: Catalog) -> None:
    row = catalog.efficiency("llamacpp", "Q4_1", "avx2")
    assert name_stratum(row) == "measured row: llamacpp Q4_1 avx2"
    assert name_stratum(replace(row, confidence="low")).startswith("derived row")
    assert name_stratum(replace(row, confidence="recalled")).startswith("recalled row")
    assert (basis_kind(row), basis_kind(replace(row, confidence="low"))) == ("measured", "assumed")
    fitted = catalog.efficiency("llamacpp", "Q4_K_M", "amx")
    assert name_stratum(fitted) == "fitted row: llamacpp Q4_K_M amx" and basis_kind(fitted) == "calibrated"


def test_a_band_is_cut_on_both_sides_and_never_stretched() -> None:
    wide = Estimate(value=1.0, low=0.1, high=9.0, unit="s")
    assert (cap_band(wide, 1.6).low, cap_band(wide, 1.6).high) == (1 / 1.6, 1.6)
    narrow = Estimate(value=1.0, low=0.9, high=1.1, unit="s")
    assert cap_band(narrow, 1.6) == narrow
    nothing = Estimate(value=0.0, low=0.0, high=1.0, unit="s")
    assert cap_band(nothing, 1.6) == nothing
