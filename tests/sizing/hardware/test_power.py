"""Power draw, PUE and grid intensity."""

from __future__ import annotations

import pytest
from tests.sizing.conftest import CATALOG

from archwright.contract.estimate import exact_estimate
from archwright.sizing.hardware import power


def test_a_busy_machine_draws_its_load_and_an_idle_one_a_share_of_its_plate() -> None:
    draw = power.estimate_power_draw(800, 1000, CATALOG)
    idle = CATALOG.parameter("idle.draw").value * 1000
    assert draw.mean(1.0).value == 800
    assert draw.mean(0.0).value == idle
    assert draw.mean(0.5).value == pytest.approx(400 + idle / 2)
    assert draw.mean(0.5).low < draw.mean(0.5).value < draw.mean(0.5).high
    unused = power.estimate_power_draw(0.0, 1000, CATALOG)
    assert unused.mean(1.0).value == unused.idle.value > 0, "busy is never below idle"


def test_what_a_building_adds_goes_by_the_place() -> None:
    def part(placement: str, *, colocated: bool = False) -> str | None:
        return power.select_pue_part(placement, colocated=colocated, catalog=CATALOG)  # type: ignore[arg-type]

    assert part("on-premises") == "pue.average"
    assert part("on-premises", colocated=True) == "pue.modern"
    assert part("cloud", colocated=True) == "pue.cloud"
    assert part("this-machine") is None


def test_a_region_has_its_own_grid_a_country_its_mean_an_unknown_one_the_span_of_all() -> None:
    france = power.estimate_grid_intensity("FR", CATALOG)
    assert france.value == 56
    assert power.estimate_grid_intensity("FR", CATALOG, 20.0).value == 20
    assert power.estimate_grid_intensity("FR", CATALOG, 20.0).factor == pytest.approx(france.factor)
    assert power.estimate_grid_intensity("XX", CATALOG, 20.0).factor == pytest.approx(power.POWER_BAND_FACTOR)
    unknown = power.estimate_grid_intensity("XX", CATALOG)
    assert unknown.low <= 30 and unknown.high >= 700 and unknown.low < unknown.value < unknown.high


def test_carbon_is_energy_times_what_the_grid_emits() -> None:
    assert power.to_kwh(1000, 730) == 730
    kilograms = power.carbon_kg(exact_estimate(1000, "kWh"), exact_estimate(56, "g/kWh"), "here")
    assert kilograms.value == pytest.approx(56)
    assert (kilograms.unit, kilograms.basis) == ("kg", "here")
