from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.policy.residency import (
    CLASSES,
    RESIDENCY_BOUND_CLASSES,
    STRICTNESS,
    DataClass,
    PoolLocation,
    ResidencyPolicy,
    has_residency,
    is_permitted_by_policy,
    is_within_residency,
    strictest_class,
)

HERE, OWN_DE, OWN_US = PoolLocation("", True), PoolLocation("DE", True), PoolLocation("US", True)
HOSTED_DE, HOSTED_US, HOSTED_SOMEWHERE = PoolLocation("DE", False), PoolLocation("US", False), PoolLocation("", False)
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
def test_the_table(data_class: DataClass, residency: tuple[str, ...], places: tuple[PoolLocation, ...]) -> None:
    assert tuple(place for place in EVERYWHERE if is_within_residency(data_class, place, residency)) == places


CLASS = st.sampled_from(CLASSES)
PLACE = st.builds(PoolLocation, st.sampled_from(["", "DE", "FR", "US"]), st.booleans())
RESIDENCY = st.lists(st.sampled_from(["DE", "FR", "US"]), unique=True)


@given(st.lists(CLASS, min_size=1))
def test_the_strictest_holds(classes: list[DataClass]) -> None:
    found = strictest_class(classes)
    assert found in classes and all(STRICTNESS[found] >= STRICTNESS[one] for one in classes)


ANY, DE = ("any",), ("DE",)


@pytest.mark.parametrize(
    ("data_class", "stated", "places"),
    [
        # As strict as the stated class, or less strict.
        ("personal", ResidencyPolicy("personal", ANY), (HERE, OWN_DE, OWN_US, HOSTED_DE, HOSTED_US)),
        ("personal", ResidencyPolicy("health", DE), (HERE, OWN_DE, HOSTED_DE)),
        ("payment", ResidencyPolicy("health", ANY), (HERE, OWN_DE, OWN_US, HOSTED_DE, HOSTED_US)),
        ("internal", ResidencyPolicy("personal", ()), EVERYWHERE),
        # Stricter and not stated: our own engines inside the residency.
        ("health", ResidencyPolicy("personal", ANY), (HERE, OWN_DE, OWN_US)),
        ("payment", ResidencyPolicy("personal", DE), (HERE, OWN_DE)),
        ("health", ResidencyPolicy("personal", ()), (HERE,)),
        ("personal", ResidencyPolicy("internal", DE), (HERE, OWN_DE)),
        ("personal", ResidencyPolicy("internal", ()), (HERE,)),
        ("health", ResidencyPolicy("personal", ANY, {"payment": DE}), (HERE, OWN_DE)),
        # Stricter and stated: the stated countries that also permit the less strict class.
        ("health", ResidencyPolicy("personal", ANY, {"health": DE}), (HERE, OWN_DE, HOSTED_DE)),
        ("health", ResidencyPolicy("personal", DE, {"health": ANY}), (HERE, OWN_DE, HOSTED_DE)),
        ("personal", ResidencyPolicy("internal", (), {"health": DE}), (HERE, OWN_DE, HOSTED_DE)),
        ("health", ResidencyPolicy("internal", (), {"health": ANY}), (HERE, OWN_DE, OWN_US, HOSTED_DE, HOSTED_US)),
        # Stated for several classes: the least strict applies, and an equally strict class is no bound.
        ("personal", ResidencyPolicy("internal", (), {"personal": DE, "health": ("US",)}), (HERE, OWN_DE, HOSTED_DE)),
        ("health", ResidencyPolicy("personal", ANY, {"health": ("US",), "payment": DE}), (HERE, OWN_US, HOSTED_US)),
        # No class: the residency applies to all classes.
        ("health", ResidencyPolicy("", DE), (HERE, OWN_DE, HOSTED_DE)),
    ],
)
def test_a_residency_speaks_for_its_class_and_milder_ones(
    data_class: DataClass, stated: ResidencyPolicy, places: tuple[PoolLocation, ...]
) -> None:
    assert tuple(place for place in EVERYWHERE if is_permitted_by_policy(data_class, place, stated)) == places


RESIDENCIES = RESIDENCY.map(tuple) | st.just(ANY)
STATED = st.builds(
    ResidencyPolicy,
    st.sampled_from(["", *CLASSES]),
    RESIDENCIES,
    st.dictionaries(st.sampled_from(sorted(RESIDENCY_BOUND_CLASSES)), RESIDENCIES),
)


@given(CLASS, CLASS, PLACE, STATED)
def test_whatever_is_stated_a_stricter_class_goes_nowhere_a_milder_may_not(
    one: DataClass, other: DataClass, place: PoolLocation, stated: ResidencyPolicy
) -> None:
    if STRICTNESS[one] > STRICTNESS[other] and is_permitted_by_policy(one, place, stated):
        assert is_permitted_by_policy(other, place, stated)


@given(CLASS, PLACE, STATED)
def test_a_class_without_residency_stays_on_own_engines(
    data_class: DataClass, place: PoolLocation, stated: ResidencyPolicy
) -> None:
    if is_permitted_by_policy(data_class, place, stated) and not has_residency(data_class, stated):
        assert place.own


@given(CLASS, PLACE, st.sampled_from(CLASSES), RESIDENCIES)
def test_a_plan_whose_class_is_as_strict_goes_where_it_went(
    data_class: DataClass, place: PoolLocation, made_for: DataClass, residency: tuple[str, ...]
) -> None:
    if STRICTNESS[made_for] >= STRICTNESS[data_class]:
        found = is_permitted_by_policy(data_class, place, ResidencyPolicy(made_for, residency))
        assert found == is_within_residency(data_class, place, residency)
