"""Data residency: the data class of a request, and the locations that may process the class.

The strictest known class applies: the endpoint's class, the caller's header and the detected class. A caller can raise
a class and never lower it. A refusal has no exception, also if all permitted engines are down.

A residency covers the class that it was stated for, and less strict classes. Data of a class without a stated residency
go only to our own engines, and only to locations that less strict classes may use.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Literal, NamedTuple, get_args

from archwright.contract.needs import PRIVATE_SENSITIVITIES, Sensitivity

DataClass = Sensitivity
CLASSES: tuple[DataClass, ...] = get_args(Sensitivity)
ANY_COUNTRY = "any"

# Health and payment data are equally strict. If two equally strict classes apply, the first one is used.
STRICTNESS: dict[DataClass, int] = {"public": 0, "internal": 1, "personal": 2, "health": 3, "payment": 3}

# Classes of personal data stay inside the endpoint's residency; an own machine outside it is not permitted either. Data
# of the other classes go to any pool of the endpoint.
RESIDENCY_BOUND_CLASSES = PRIVATE_SENSITIVITIES


class PoolLocation(NamedTuple):
    """Location of a pool's engines. `country`: ISO code; empty: unknown, or this site for our own engines."""

    country: str
    own: bool


def is_within_residency(data_class: DataClass, place: PoolLocation, residency: Collection[str]) -> bool:
    """True if data of the class may go to `place`. `residency`: countries, ANY_COUNTRY; empty: this site."""
    if data_class not in RESIDENCY_BOUND_CLASSES or (place.own and not place.country):
        return True
    return bool(place.country) and (place.country in residency or ANY_COUNTRY in residency)


class ResidencyPolicy(NamedTuple):
    """An endpoint's class and residency, and the residencies of stricter classes.

    Without a class, the residency applies to all classes."""

    data_class: DataClass | Literal[""] = ""
    residency: tuple[str, ...] = ()
    residency_of: Mapping[DataClass, tuple[str, ...]] = {}


def is_permitted_by_policy(data_class: DataClass, place: PoolLocation, policy: ResidencyPolicy) -> bool:
    if data_class not in RESIDENCY_BOUND_CLASSES:
        return True
    applicable, bounds = _applicable_residencies(data_class, policy)
    if not applicable:
        return place.own and all(is_within_residency(data_class, place, bound) for bound in bounds or [()])
    inside = any(is_within_residency(data_class, place, residency) for residency in applicable)
    return inside and all(is_within_residency(data_class, place, bound) for bound in bounds)


def has_residency(data_class: DataClass, policy: ResidencyPolicy) -> bool:
    """True if the policy states a residency for the class, or the class needs none."""
    return data_class not in RESIDENCY_BOUND_CLASSES or bool(_applicable_residencies(data_class, policy)[0])


_Residencies = list[tuple[str, ...]]


def _applicable_residencies(data_class: DataClass, policy: ResidencyPolicy) -> tuple[_Residencies, _Residencies]:
    """Return the residencies that apply to the class, and the residencies that bound it in addition.

    Applicable: of those stated for the class or stricter classes, the least strict. Bounds: those of less strict
    classes; without an applicable residency also those of equally strict classes."""
    level = STRICTNESS[data_class]
    stated = [(name, STRICTNESS[name], residency) for name, residency in policy.residency_of.items()]
    applicable = [(strict, residency) for name, strict, residency in stated if name == data_class or strict > level]
    own_level = STRICTNESS[policy.data_class] if policy.data_class else max(STRICTNESS.values())
    if own_level >= level:
        applicable.append((own_level, policy.residency))
    elif policy.data_class in RESIDENCY_BOUND_CLASSES or policy.residency:
        # An empty residency is no bound for a class that may go anywhere.
        stated.append(("internal", own_level, policy.residency))
    nearest = min((strict for strict, _ in applicable), default=level + 1)
    bounds = [residency for _, strict, residency in stated if strict < level or (not applicable and strict == level)]
    return [residency for strict, residency in applicable if strict == nearest], bounds


def strictest_class(classes: Iterable[DataClass]) -> DataClass:
    """Return the strictest class. Raises ValueError without a class."""
    return max(classes, key=STRICTNESS.__getitem__)
