"""What a plan must show beside its numbers: the bases of its estimates, what it assumed, what it does not size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec

from archwright.contract.estimate import Estimate
from archwright.contract.evidence import Basis, BasisKind
from archwright.contract.record import replace

# Bands of one cause differ a little where a fixed part is added to what is uncertain.
BAND_WIDTH_DIGITS = 1


class PlanProvenance:
    """Filled while options are built; read once when the plan is written. Order of first mention is kept."""

    def __init__(self) -> None:
        self._bases: dict[str, Basis] = {}
        self._assumptions: dict[str, None] = {}
        self._not_sized: dict[str, None] = {}
        self._drivers: dict[str, Estimate] = {}

    def register_basis(self, basis: Basis) -> str:
        """Keep `basis`; returns its id here, which differs when another basis already has that name."""
        name, number = basis.id, 1
        while name in self._bases and replace(self._bases[name], id=basis.id) != basis:
            number += 1
            name = f"{basis.id}.{number}"
        self._bases[name] = replace(basis, id=name)
        return name

    def register_bases(self, bases: Iterable[Basis]) -> dict[str, str]:
        """Keep all; returns old id -> id here."""
        return {basis.id: self.register_basis(basis) for basis in bases}

    def create_basis(
        self,
        name: str,
        kind: BasisKind,
        definition: str,
        *,
        formula: str = "",
        facts: tuple[str, ...] = (),
        stratum: str = "",
    ) -> str:
        """A basis in words; returns the id an Estimate refers to."""
        made = Basis(id=name, kind=kind, stratum=stratum or kind, definition=definition, formula=formula, facts=facts)
        return self.register_basis(made)

    def register_driver(self, estimate: Estimate) -> str:
        """Keep a fact that costs are proportional to, under its basis; returns that basis. The first one stays."""
        self._drivers.setdefault(estimate.basis, estimate)
        return estimate.basis

    def driver_estimate(self, basis: str) -> Estimate:
        """Raises KeyError."""
        return self._drivers[basis]

    def root_facts(self, basis: str) -> tuple[str, ...]:
        """The facts a number was made from, down to those made from no other; itself when it is one of these."""
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
        """Equal keys (same facts, same relative widths) are off by the same factor. Raises KeyError."""
        estimate = self._drivers[driver]
        if estimate.low <= 0 or estimate.low == estimate.high:
            return (driver,)
        widths = (math.log(estimate.value / estimate.low), math.log(estimate.high / estimate.value))
        return (*self.root_facts(driver), *(round(width, BAND_WIDTH_DIGITS) for width in widths))

    def definition(self, basis: str) -> str:
        """What the number of that basis means, in words. Raises KeyError."""
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
        """The bases that the estimates inside `holders` name, and those that these name as facts."""
        named = {estimate.basis for holder in holders for estimate in find_estimates(holder)}
        return trace_bases(named, [basis for _, basis in sorted(self._bases.items())])


def trace_bases(named: Iterable[str], bases: Sequence[Basis]) -> tuple[Basis, ...]:
    """Of `bases`, in their order, those that are named, and those that these name as facts."""
    known, reached, open_ = {basis.id: basis for basis in bases}, set[str](), set(named)
    while open_:
        reached |= open_
        open_ = {fact for name in open_ & known.keys() for fact in known[name].facts if fact in known} - reached
    return tuple(basis for basis in bases if basis.id in reached)


def find_estimates(holder: object) -> Iterable[Estimate]:
    """Every Estimate inside records, tuples and dicts."""
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
