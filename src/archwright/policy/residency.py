"""Where data of a class may be worked on, and which class a request's data has.

Decides that the strictest of what is known holds: the endpoint's class, what the caller says and what was found in
the text. A caller can raise a class, never lower it. Where the rule says no there is no exception, whatever fails.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple, get_args

from archwright.contract.needs import Sensitivity

DataClass = Sensitivity
CLASSES: tuple[DataClass, ...] = get_args(Sensitivity)
ANYWHERE = "any"

# Health and payment data are equally strict; of two equally strict words the first given stays.
STRICTNESS: dict[DataClass, int] = {"public": 0, "internal": 1, "personal": 2, "health": 3, "payment": 3}

# These stay inside the endpoint's residency; that a machine is ours does not move it there. The other classes go to
# any pool the endpoint names.
BOUND: frozenset[DataClass] = frozenset({"personal", "health", "payment"})


class Place(NamedTuple):
    """Where a pool's engines stand: the ISO code of a country, or nothing said, which for our own means here."""

    country: str
    own: bool


def allowed(data_class: DataClass, place: Place, residency: Collection[str]) -> bool:
    """Whether data of the class may go there. `residency` holds countries, or ANYWHERE; without any, here alone."""
    if data_class not in BOUND or (place.own and not place.country):
        return True
    return bool(place.country) and (place.country in residency or ANYWHERE in residency)


def strictest(classes: Iterable[DataClass]) -> DataClass:
    """Raises ValueError when there is none."""
    return max(classes, key=STRICTNESS.__getitem__)
