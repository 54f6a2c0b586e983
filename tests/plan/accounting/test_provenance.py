"""Provenance of numbers: bases, causes, assumptions."""

from __future__ import annotations

import pytest

from archwright.contract.estimate import Estimate, exact_estimate, within_factor
from archwright.contract.evidence import Basis
from archwright.plan.accounting.provenance import PlanProvenance, find_estimates


def basis(name: str, definition: str) -> Basis:
    return Basis(id=name, kind="formula", stratum="s", definition=definition)


def test_the_same_basis_keeps_its_name_and_another_gets_its_own() -> None:
    ledger = PlanProvenance()
    names = [ledger.register_basis(basis("a", text)) for text in ("one", "one", "two", "three", "two")]
    assert names == ["a", "a", "a.2", "a.3", "a.2"]
    assert ledger.register_bases([basis("b", "x")]) == {"b": "b"}


def test_only_named_bases_are_shown() -> None:
    ledger = PlanProvenance()
    used, unused = ledger.create_basis("used", "quoted", "d"), ledger.create_basis("unused", "quoted", "d")
    held = {"list": (exact_estimate(1, "x", used), [exact_estimate(2, "x", unused)])}
    assert [b.id for b in ledger.collect_bases(held)] == [used]
    assert [e.value for e in find_estimates(held)] == [1]


def test_sentences_are_kept_once_in_order() -> None:
    ledger = PlanProvenance()
    ledger.add_assumptions("b", "a")
    ledger.add_assumptions("b")
    ledger.add_not_sized("x")
    assert (ledger.assumptions, ledger.not_sized) == (("b", "a"), ("x",))


def test_numbers_made_from_the_same_facts_have_one_cause() -> None:
    ledger = PlanProvenance()
    speed, other = ledger.create_basis("speed", "calibrated", "d"), ledger.create_basis("other", "calibrated", "d")
    made = {
        name: ledger.create_basis(name, "formula", "d", facts=facts)
        for name, facts in {
            "here": (speed, "words"),
            "there": (ledger.create_basis("between", "formula", "d", facts=(speed,)),),
            "both": (speed, other),
            "wider": (speed,),
        }.items()
    }
    for name in made:
        ledger.register_driver(within_factor(1, 2.0 if name == "wider" else 1.5, "x", name))
    assert [ledger.root_facts(name) for name in made] == [("speed",), ("speed",), ("other", "speed"), ("speed",)]
    assert ledger.uncertainty_key("here") == ledger.uncertainty_key("there")
    assert len({ledger.uncertainty_key(name) for name in made}) == 3


def test_facts_that_name_each_other_end() -> None:
    ledger = PlanProvenance()
    ledger.create_basis("a", "formula", "d", facts=("b",))
    ledger.create_basis("b", "formula", "d", facts=("a",))
    assert ledger.root_facts("a") == ("a",)
    assert ledger.root_facts("nobody") == ("nobody",)


def test_a_certain_number_and_one_that_reaches_zero_are_their_own_cause() -> None:
    ledger = PlanProvenance()
    ledger.register_driver(exact_estimate(1, "x", "sure"))
    ledger.register_driver(Estimate(value=1, low=0, high=2, unit="x", basis="zero"))
    assert (ledger.uncertainty_key("sure"), ledger.uncertainty_key("zero")) == (("sure",), ("zero",))
    with pytest.raises(KeyError):
        ledger.uncertainty_key("nobody")
    assert ledger.definition(ledger.create_basis("a", "quoted", "what it is")) == "what it is"
