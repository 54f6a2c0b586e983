"""Spares, availability of machines and of their site."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from archwright.contract.estimate import Estimate, exact_estimate
from archwright.contract.plan import Plan
from archwright.plan.capacity.availability import (
    MACHINE_DOWNTIME_SHARE,
    MAX_SPARES,
    SPARE_REQUIRED_ABOVE,
    FailureDomain,
    RedundancyRequirement,
    compute_availability,
    compute_shared_availability,
    count_spares,
)
from archwright.plan.options.option_builder import survives_zone_loss

from ..conftest import GONE, Change, edit

Make = Callable[..., Plan]


def test_availability_of_few_machines_and_targets_out_of_reach() -> None:
    assert (count_spares(1, 0.5, machine=0.5), count_spares(100, 1 - 1e-16, machine=0.2)) == (1, MAX_SPARES)
    assert (count_spares(3, None), count_spares(100, 0.9995), count_spares(1, 0.9999999)) == (0, 4, 3)
    found = [compute_availability(*machines) for machines in ((1, 0), (2, 0), (1, 1))]
    assert found == pytest.approx([0.995, 0.995**2, 1 - 0.005**2])


SITE = FailureDomain("one site", Estimate(value=0.9998, low=0.997, high=0.9999, unit="share"), "a second")


def test_no_spare_makes_a_site_better_than_it_is() -> None:
    up, alone = RedundancyRequirement(3, 2, SITE), RedundancyRequirement(3, 2)
    assert up.estimate_availability().value == pytest.approx(0.9998 * compute_availability(3, 2))
    assert up.estimate_availability().low == pytest.approx(0.997 * compute_availability(3, 2, 0.98))
    assert up.is_limited_by_place(0.9999) and not up.is_limited_by_place(0.9998 - 1e-9)
    assert not alone.is_limited_by_place(1 - 1e-12)
    assert alone.estimate_availability().value == compute_availability(3, 2)


@pytest.mark.parametrize(
    ("needed", "spares", "may"), [(1, 0, False), (1, 1, True), (2, 1, True), (3, 1, False), (4, 2, True), (9, 4, False)]
)
def test_a_zone_may_be_lost_where_enough_machines_stand_in_the_others(needed: int, spares: int, may: bool) -> None:
    assert survives_zone_loss(needed, spares) is may


def asked(target: float, placement: str, tier: int | None = None) -> Change:
    place = {"placement.allow": [placement], "placement.clouds": ["aws"], "placement.prefer": GONE}
    site = (
        {}
        if tier is None
        else {
            "placement.site.tier": tier,
            "workloads.0.model": "Gemma-3-12B-it",
            "workloads.0.quality": {"mmlu_pro": 0.5},
        }
    )
    return edit({**place, **site, "workloads.0.slo.availability": target})


@pytest.mark.parametrize(
    ("tier", "target", "held"),
    [(1, 0.995, True), (1, 0.997, False), (2, 0.997, True), (2, 0.999, False), (None, 0.9995, True), (4, 0.9999, True)],
)
def test_a_site_holds_what_its_tier_lets_it_hold(plan_of: Make, tier: int | None, target: float, held: bool) -> None:
    (option,) = plan_of("clinic", asked(target, "on-premises", tier)).options
    missed = {miss.constraint: miss for miss in option.misses}
    # The other workload keeps its own target.
    assert ("letters.availability" not in missed) is held, option.misses
    if not held:
        assert float(missed["letters.availability"].value or 0) < target
        note = f"letters: availability {target:.6g} exceeds that of one data"
        assert any(text.startswith(note) for text in option.notes)


@pytest.mark.nightly
def test_a_target_above_that_of_a_region_is_missed_and_predictions_name_the_site(plan_of: Make) -> None:
    option = next(one for one in plan_of("clinic", asked(0.99995, "cloud")).options if one.name == "cloud-aws")
    assert "letters.availability" in {miss.constraint for miss in option.misses}
    assert any("exceeds that of one " in note and "a second region" in note for note in option.notes)
    plan = plan_of("clinic", asked(0.999, "on-premises"))
    share = next(one for one in plan.predictions if one.id == "letters.requests.share")
    facts = next(basis.facts for basis in plan.bases if basis.id == share.estimate.basis)
    assert any("one data centre of tier 3" in fact for fact in facts) and share.estimate.value < 0.99982
    assert any(basis.id == "part.site.tier-3" for basis in plan.bases)
    assert any(said.startswith("placement.site.tier: 3") for said in plan.assumptions)
    plants = next(one for one in plan_of("manufacturer").predictions if one.id == "downtime.requests.share")
    assert plants.estimate.value > 0.9999, "an outage of a plant stops its users too"


@pytest.mark.parametrize("needed", [1, 2, 5, 40])
def test_the_fewest_spares_keep_a_target_at_a_site_that_uses_the_other_half_of_the_downtime(needed: int) -> None:
    targets = (0.5, 0.9, 0.98, 0.99, 0.995, 0.999, 0.9999)
    spares = [count_spares(needed, target) for target in targets]
    assert spares == sorted(spares)
    for target, spare in zip(targets, spares, strict=True):
        site = FailureDomain("a site", exact_estimate(1 - (1 - target) / 2, "share"), "another")
        assert target < 0.9 or RedundancyRequirement(needed, spare, site).estimate_availability().value >= target
        assert compute_availability(needed, spare) >= target
        goal = 1 - (1 - target) * MACHINE_DOWNTIME_SHARE
        assert spare == (1 if target > SPARE_REQUIRED_ABOVE else 0) or compute_availability(needed, spare - 1) < goal


@pytest.mark.parametrize(("needed", "spares"), [(1, 1), (3, 1), (5, 2), (12, 2)])
def test_machines_of_two_types_that_do_the_same_hold_as_often_as_those_of_one(needed: int, spares: int) -> None:
    first = (needed + spares) // 2
    both = ((first, 1 / needed), (needed + spares - first, 1 / needed))
    assert compute_shared_availability(both) == pytest.approx(compute_availability(needed, spares), abs=1e-12)


def test_what_is_lost_with_a_large_machine_counts_as_what_it_carries() -> None:
    """With one machine for all of the load and two for half of it, both small ones or the large one may fail."""
    up = 0.995
    assert compute_shared_availability(((1, 1.0), (2, 0.5)), up) == pytest.approx(up + (1 - up) * up**2)
    assert compute_shared_availability(((1, 1.0), (0, 0.5)), up) == pytest.approx(up)


def test_a_load_that_is_shared_is_up_as_its_worst_year_and_its_place_let_it() -> None:
    good, bad = ((2, 0.5), (2, 0.5)), ((2, 0.5), (1, 0.5))
    up = RedundancyRequirement(2, 1, SITE, (good, bad, good))
    assert compute_shared_availability(bad) < compute_shared_availability(good)
    assert up.estimate_availability().value == pytest.approx(0.9998 * compute_shared_availability(bad))
    assert up.estimate_availability().low == pytest.approx(0.997 * compute_shared_availability(bad, 0.98))
    assert up._replace(place=None).estimate_availability().value == compute_shared_availability(bad)
    assert up.is_limited_by_place(0.9999) and not up.is_limited_by_place(0.9997)
