"""Where data of a class may be worked on, and which class a request's data has.

The strictest of what is known holds: the endpoint's class, the caller's statement and what was found in the text. A
caller can raise a class, never lower it. A refusal has no exception, whatever fails.

A residency covers the class of data it was stated for and milder ones. Data of a class without a stated residency go
only to engines of one's own, and only where milder classes may go.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Literal, NamedTuple, get_args

from archwright.contract.needs import PRIVATE_SENSITIVITIES, Sensitivity

DataClass = Sensitivity
CLASSES: tuple[DataClass, ...] = get_args(Sensitivity)
ANY_COUNTRY = "any"

# Health and payment data are equally strict; of two equally strict words the first given stays.
STRICTNESS: dict[DataClass, int] = {"public": 0, "internal": 1, "personal": 2, "health": 3, "payment": 3}

# Data of people stay inside the endpoint's residency; that a machine is ours does not move it there. The other classes
# go to any pool the endpoint names.
RESIDENCY_BOUND_CLASSES = PRIVATE_SENSITIVITIES


class PoolLocation(NamedTuple):
    """Where a pool's engines stand: the ISO code of a country, or nothing said, which for our own means here."""

    country: str
    own: bool


def is_within_residency(data_class: DataClass, place: PoolLocation, residency: Collection[str]) -> bool:
    """Whether data of the class may go there. `residency` holds countries, or ANY_COUNTRY; without any, here alone."""
    if data_class not in RESIDENCY_BOUND_CLASSES or (place.own and not place.country):
        return True
    return bool(place.country) and (place.country in residency or ANY_COUNTRY in residency)


class ResidencyPolicy(NamedTuple):
    """An endpoint's class and where it may go, and where stricter classes may. Without a class, its residency
    is for all."""

    data_class: DataClass | Literal[""] = ""
    residency: tuple[str, ...] = ()
    residency_of: Mapping[DataClass, tuple[str, ...]] = {}


def is_permitted_by_policy(data_class: DataClass, place: PoolLocation, stated: ResidencyPolicy) -> bool:
    """Whether data of the class may go there from an endpoint that says so."""
    if data_class not in RESIDENCY_BOUND_CLASSES:
        return True
    speaking, bounds = _applicable_residencies(data_class, stated)
    if not speaking:
        return place.own and all(is_within_residency(data_class, place, one) for one in bounds or [()])
    inside = any(is_within_residency(data_class, place, one) for one in speaking)
    return inside and all(is_within_residency(data_class, place, one) for one in bounds)


def has_residency(data_class: DataClass, stated: ResidencyPolicy) -> bool:
    """Whether a residency was stated for data of the class, or need not be."""
    return data_class not in RESIDENCY_BOUND_CLASSES or bool(_applicable_residencies(data_class, stated)[0])


_Residencies = list[tuple[str, ...]]


def _applicable_residencies(data_class: DataClass, stated: ResidencyPolicy) -> tuple[_Residencies, _Residencies]:
    """The residencies that speak for the class, the nearest of those stated for it and stricter ones; and those of
    milder classes (of equally strict ones too, where none speaks), which bound it as well."""
    level = STRICTNESS[data_class]
    said = [(one, STRICTNESS[one], residency) for one, residency in stated.residency_of.items()]
    speaking = [(strict, residency) for one, strict, residency in said if one == data_class or strict > level]
    made_for = STRICTNESS[stated.data_class] if stated.data_class else max(STRICTNESS.values())
    if made_for >= level:
        speaking.append((made_for, stated.residency))
    elif stated.data_class in RESIDENCY_BOUND_CLASSES or stated.residency:
        # To a class that may go anywhere no residency is no bound.
        said.append(("internal", made_for, stated.residency))
    nearest = min((strict for strict, _ in speaking), default=level + 1)
    bounds = [residency for _, strict, residency in said if strict < level or (not speaking and strict == level)]
    return [residency for strict, residency in speaking if strict == nearest], bounds


def strictest_class(classes: Iterable[DataClass]) -> DataClass:
    """Raises ValueError when there is none."""
    return max(classes, key=STRICTNESS.__getitem__)
