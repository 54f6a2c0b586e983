from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.policy.residency import BOUND, CLASSES, STRICTNESS, DataClass, Place, allowed, strictest

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
