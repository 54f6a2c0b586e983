"""Provenance of a plan's numbers: bases of estimates, assumptions, and work that the plan does not size."""

import math
from collections.abc import Iterable, Sequence
from typing import TypedDict, Unpack

import msgspec

from archwright.contract.estimate import Estimate
from archwright.contract.evidence import Basis, BasisKind
from archwright.contract.record import replace

# Intervals with the same cause differ a little if a fixed part is added to an uncertain one.
BAND_WIDTH_DIGITS = 1


class BasisDetails(TypedDict, total=False):
    """Optional fields of a Basis."""

    formula: str
    facts: tuple[str, ...]
    stratum: str


class PlanProvenance:
    """Collects bases, drivers and texts while options are built; keeps the order of first mention."""

    def __init__(self) -> None:
        self._bases: dict[str, Basis] = {}
        self._assumptions: dict[str, None] = {}
        self._not_sized: dict[str, None] = {}
        self._drivers: dict[str, Estimate] = {}

    def register_basis(self, basis: Basis) -> str:
        """Add `basis` and return its id in this ledger, which differs if another basis already has that name."""
        name, number = basis.id, 1
        while name in self._bases and replace(self._bases[name], id=basis.id) != basis:
            number += 1
            name = f"{basis.id}.{number}"
        self._bases[name] = replace(basis, id=name)
        return name

    def register_bases(self, bases: Iterable[Basis]) -> dict[str, str]:
        """Add all bases; return old id -> id in this ledger."""
        return {basis.id: self.register_basis(basis) for basis in bases}

    def create_basis(self, name: str, kind: BasisKind, definition: str, **details: Unpack[BasisDetails]) -> str:
        """Add a basis; return the id that an Estimate refers to."""
        details.setdefault("stratum", kind)
        return self.register_basis(Basis(id=name, kind=kind, definition=definition, **details))

    def register_driver(self, estimate: Estimate) -> str:
        """Add a fact that costs are proportional to, under its basis; return that basis. The first estimate stays."""
        self._drivers.setdefault(estimate.basis, estimate)
        return estimate.basis

    def create_driver(
        self, estimate: Estimate, name: str, kind: BasisKind, definition: str, **details: Unpack[BasisDetails]
    ) -> Estimate:
        """Create a basis, set it on `estimate`, register the result as a driver, and return it."""
        driver = replace(estimate, basis=self.create_basis(name, kind, definition, **details))
        self.register_driver(driver)
        return driver

    def select_drivers(self, *names: str) -> tuple[str, ...]:
        """Return the names that have a registered driver."""
        return tuple(name for name in names if name in self._drivers)

    def driver_estimate(self, basis: str) -> Estimate:
        """Raises KeyError."""
        return self._drivers[basis]

    def root_facts(self, basis: str) -> tuple[str, ...]:
        """Return the facts that a number is derived from and that are not derived themselves; else the basis itself."""
        found, seen, open_ = set[str](), set[str](), [basis]
        while open_:
            name = open_.pop()
            seen.add(name)
            held = self._bases.get(name)
            below = [fact for fact in (held.facts if held is not None else ()) if fact in self._bases]
            open_ += [fact for fact in below if fact not in seen]
            if not below:
                found.add(name)
        return tuple(sorted(found)) or (basis,)

    def uncertainty_key(self, driver: str) -> tuple[object, ...]:
        """Return a key; numbers with equal keys have the same facts and the same relative error. Raises KeyError."""
        estimate = self._drivers[driver]
        if estimate.low <= 0 or estimate.low == estimate.high:
            return (driver,)
        widths = (math.log(estimate.value / estimate.low), math.log(estimate.high / estimate.value))
        return (*self.root_facts(driver), *(round(width, BAND_WIDTH_DIGITS) for width in widths))

    def definition(self, basis: str) -> str:
        """Return the definition text of a basis. Raises KeyError."""
        return self._bases[basis].definition

    def add_assumptions(self, *sentences: str) -> None:
        self._assumptions.update(dict.fromkeys(sentences))

    def add_not_sized(self, *sentences: str) -> None:
        self._not_sized.update(dict.fromkeys(sentences))

    @property
    def assumptions(self) -> tuple[str, ...]:
        return tuple(self._assumptions)

    @property
    def not_sized(self) -> tuple[str, ...]:
        return tuple(self._not_sized)

    def collect_bases(self, *holders: object) -> tuple[Basis, ...]:
        """Return the bases of all estimates inside `holders`, and the bases that these name as facts."""
        named = {estimate.basis for holder in holders for estimate in find_estimates(holder)}
        found = trace_bases(named, [basis for _, basis in sorted(self._bases.items())])
        return tuple(replace(one, estimate=self._drivers.get(one.id)) for one in found)


def trace_bases(named: Iterable[str], bases: Sequence[Basis]) -> tuple[Basis, ...]:
    """Return the bases in `named` and the bases that these name as facts, in the order of `bases`."""
    known, reached, open_ = {basis.id: basis for basis in bases}, set[str](), set(named)
    while open_:
        reached |= open_
        open_ = {fact for name in open_ & known.keys() for fact in known[name].facts if fact in known} - reached
    return tuple(basis for basis in bases if basis.id in reached)


def find_estimates(holder: object) -> Iterable[Estimate]:
    """Yield every Estimate inside records, tuples and dicts."""
    if isinstance(holder, Estimate):
        yield holder
    elif isinstance(holder, msgspec.Struct):
        for field in holder.__struct_fields__:
            yield from find_estimates(getattr(holder, field))
    elif isinstance(holder, dict):
        for value in holder.values():
            yield from find_estimates(value)
    elif isinstance(holder, tuple):
        for value in holder:
            yield from find_estimates(value)
