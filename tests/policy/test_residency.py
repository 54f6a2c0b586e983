from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.policy.residency import (
    BOUND,
    CLASSES,
    STRICTNESS,
    DataClass,
    Place,
    Stated,
    allowed,
    permitted,
    spoken_for,
    strictest,
)

HERE, OWN_DE, OWN_US = Place("", True), Place("DE", True), Place("US", True)
HOSTED_DE, HOSTED_US, HOSTED_SOMEWHERE = Place("DE", False), Place("US", False), Place("", False)
EVERYWHERE = (HERE, OWN_DE, OWN_US, HOSTED_DE, HOSTED_US, HOSTED_SOMEWHERE)


@pytest.mark.parametrize(
    ("data_class", "residency", "places"),
    [
        ("public", (), EVERYWHERE),
        ("internal", (), EVERYWHERE),
        ("personal", (), (HERE,)),
        ("personal", ("DE",), (HERE, OWN_DE, HOSTED_DE)),
        ("health", ("DE", "FR"), (HERE, OWN_DE, HOSTED_DE)),
        ("payment", ("US",), (HERE, OWN_US, HOSTED_US)),
        ("payment", ("any",), (HERE, OWN_DE, OWN_US, HOSTED_DE, HOSTED_US)),
    ],
)
def test_the_table(data_class: DataClass, residency: tuple[str, ...], places: tuple[Place, ...]) -> None:
    assert tuple(place for place in EVERYWHERE if allowed(data_class, place, residency)) == places


CLASS = st.sampled_from(CLASSES)
PLACE = st.builds(Place, st.sampled_from(["", "DE", "FR", "US"]), st.booleans())
RESIDENCY = st.lists(st.sampled_from(["DE", "FR", "US"]), unique=True)


@given(CLASS, CLASS, PLACE, RESIDENCY)
def test_a_stricter_class_goes_nowhere_a_laxer_may_not(
    one: DataClass, other: DataClass, place: Place, residency: list[str]
) -> None:
    if STRICTNESS[one] >= STRICTNESS[other] and allowed(one, place, residency):
        assert allowed(other, place, residency)


@given(st.sampled_from(sorted(BOUND)), PLACE, RESIDENCY)
def test_sensitive_data_is_here_or_in_its_residency(data_class: DataClass, place: Place, residency: list[str]) -> None:
    inside = place == Place("", True) or place.country in residency
    assert allowed(data_class, place, residency) == inside


@given(st.lists(CLASS, min_size=1))
def test_the_strictest_holds(classes: list[DataClass]) -> None:
    found = strictest(classes)
    assert found in classes and all(STRICTNESS[found] >= STRICTNESS[one] for one in classes)


ANY, DE = ("any",), ("DE",)


@pytest.mark.parametrize(
    ("data_class", "stated", "places"),
    [
        # As strict as what was stated, or milder: as ever.
        ("personal", Stated("personal", ANY), (HERE, OWN_DE, OWN_US, HOSTED_DE, HOSTED_US)),
        ("personal", Stated("health", DE), (HERE, OWN_DE, HOSTED_DE)),
        ("payment", Stated("health", ANY), (HERE, OWN_DE, OWN_US, HOSTED_DE, HOSTED_US)),
        ("internal", Stated("personal", ()), EVERYWHERE),
        # Stricter, and nobody spoke of it: one's own, inside the residency.
        ("health", Stated("personal", ANY), (HERE, OWN_DE, OWN_US)),
        ("payment", Stated("personal", DE), (HERE, OWN_DE)),
        ("health", Stated("personal", ()), (HERE,)),
        ("personal", Stated("internal", DE), (HERE, OWN_DE)),
        ("personal", Stated("internal", ()), (HERE,)),
        ("health", Stated("personal", ANY, {"payment": DE}), (HERE, OWN_DE)),
        # Stricter, and stated: there, and where the milder may be too.
        ("health", Stated("personal", ANY, {"health": DE}), (HERE, OWN_DE, HOSTED_DE)),
        ("health", Stated("personal", DE, {"health": ANY}), (HERE, OWN_DE, HOSTED_DE)),
        ("personal", Stated("internal", (), {"health": DE}), (HERE, OWN_DE, HOSTED_DE)),
        ("health", Stated("internal", (), {"health": ANY}), (HERE, OWN_DE, OWN_US, HOSTED_DE, HOSTED_US)),
        # Stated for several: the nearest speaks, and one as strict is no bound beside it.
        ("personal", Stated("internal", (), {"personal": DE, "health": ("US",)}), (HERE, OWN_DE, HOSTED_DE)),
        ("health", Stated("personal", ANY, {"health": ("US",), "payment": DE}), (HERE, OWN_US, HOSTED_US)),
        # No class: the residency is for all.
        ("health", Stated("", DE), (HERE, OWN_DE, HOSTED_DE)),
    ],
)
def test_a_residency_speaks_for_its_class_and_milder_ones(
    data_class: DataClass, stated: Stated, places: tuple[Place, ...]
) -> None:
    assert tuple(place for place in EVERYWHERE if permitted(data_class, place, stated)) == places


RESIDENCIES = RESIDENCY.map(tuple) | st.just(ANY)
STATED = st.builds(
    Stated,
    st.sampled_from(["", *CLASSES]),
    RESIDENCIES,
    st.dictionaries(st.sampled_from(sorted(BOUND)), RESIDENCIES),
)


@given(CLASS, CLASS, PLACE, STATED)
def test_whatever_is_stated_a_stricter_class_goes_nowhere_a_milder_may_not(
    one: DataClass, other: DataClass, place: Place, stated: Stated
) -> None:
    if STRICTNESS[one] > STRICTNESS[other] and permitted(one, place, stated):
        assert permitted(other, place, stated)


@given(CLASS, PLACE, STATED)
def test_what_nobody_spoke_for_stays_with_ones_own(data_class: DataClass, place: Place, stated: Stated) -> None:
    if permitted(data_class, place, stated) and not spoken_for(data_class, stated):
        assert place.own


@given(CLASS, PLACE, st.sampled_from(CLASSES), RESIDENCIES)
def test_a_plan_whose_class_is_as_strict_goes_where_it_went(
    data_class: DataClass, place: Place, made_for: DataClass, residency: tuple[str, ...]
) -> None:
    if STRICTNESS[made_for] >= STRICTNESS[data_class]:
        assert permitted(data_class, place, Stated(made_for, residency)) == allowed(data_class, place, residency)
