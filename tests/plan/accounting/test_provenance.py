"""What stands beside the numbers."""

from __future__ import annotations

import pytest

from archwright.contract.estimate import Estimate, exact_estimate, within_factor
from archwright.contract.evidence import Basis
from archwright.plan.accounting.provenance import PlanProvenance, find_estimates


def basis(name: str, definition: str) -> Basis:
    return Basis(id=name, kind="formula", stratum="s", definition=definition)


def test_the_same_basis_keeps_its_name_and_another_gets_its_own() -> None:
    ledger = PlanProvenance()
    assert ledger.adopt(basis("a", "one")) == "a"
    assert ledger.adopt(basis("a", "one")) == "a"
    assert ledger.adopt(basis("a", "two")) == "a.2"
    assert ledger.adopt(basis("a", "three")) == "a.3"
    assert ledger.adopt(basis("a", "two")) == "a.2"
    assert ledger.adopt_all([basis("b", "x")]) == {"b": "b"}


def test_only_named_bases_are_shown() -> None:
    ledger = PlanProvenance()
    used, unused = ledger.basis("used", "quoted", "d"), ledger.basis("unused", "quoted", "d")
    held = {"list": (exact_estimate(1, "x", used), [exact_estimate(2, "x", unused)])}
    assert [b.id for b in ledger.bases(held)] == [used]
    assert [e.value for e in find_estimates(held)] == [1]


def test_sentences_are_kept_once_in_order() -> None:
    ledger = PlanProvenance()
    ledger.assume("b", "a")
    ledger.assume("b")
    ledger.leave_out("x")
    assert (ledger.assumptions, ledger.not_sized) == (("b", "a"), ("x",))


def driven(factor: float, name: str) -> Estimate:
    return within_factor(1, factor, "x", name)


def test_numbers_made_from_the_same_facts_have_one_cause() -> None:
    ledger = PlanProvenance()
    speed, other = ledger.basis("speed", "calibrated", "d"), ledger.basis("other", "calibrated", "d")
    made = {
        name: ledger.basis(name, "formula", "d", facts=facts)
        for name, facts in {
            "here": (speed, "words"),
            "there": (ledger.basis("between", "formula", "d", facts=(speed,)),),
            "both": (speed, other),
            "wider": (speed,),
        }.items()
    }
    for name in made:
        ledger.drive(driven(2.0 if name == "wider" else 1.5, name))
    assert [ledger.roots(name) for name in made] == [("speed",), ("speed",), ("other", "speed"), ("speed",)]
    assert ledger.cause("here") == ledger.cause("there")
    assert len({ledger.cause(name) for name in made}) == 3


def test_facts_that_name_each_other_end() -> None:
    ledger = PlanProvenance()
    ledger.basis("a", "formula", "d", facts=("b",))
    ledger.basis("b", "formula", "d", facts=("a",))
    assert ledger.roots("a") == ("a",)
    assert ledger.roots("nobody") == ("nobody",)


def test_what_is_certain_or_reaches_zero_is_its_own_cause() -> None:
    ledger = PlanProvenance()
    ledger.drive(exact_estimate(1, "x", "sure"))
    ledger.drive(Estimate(value=1, low=0, high=2, unit="x", basis="zero"))
    assert (ledger.cause("sure"), ledger.cause("zero")) == (("sure",), ("zero",))
    with pytest.raises(KeyError):
        ledger.cause("nobody")


def test_a_definition_is_found_by_its_basis() -> None:
    ledger = PlanProvenance()
    assert ledger.definition(ledger.basis("a", "quoted", "what it is")) == "what it is"
