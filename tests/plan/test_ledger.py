"""What stands beside the numbers."""

from __future__ import annotations

from archwright.contract.estimate import exact
from archwright.contract.evidence import Basis
from archwright.plan.ledger import Ledger, estimates_in


def basis(name: str, definition: str) -> Basis:
    return Basis(id=name, kind="formula", stratum="s", definition=definition)


def test_the_same_basis_keeps_its_name_and_another_gets_its_own() -> None:
    ledger = Ledger()
    assert ledger.adopt(basis("a", "one")) == "a"
    assert ledger.adopt(basis("a", "one")) == "a"
    assert ledger.adopt(basis("a", "two")) == "a.2"
    assert ledger.adopt(basis("a", "three")) == "a.3"
    assert ledger.adopt(basis("a", "two")) == "a.2"
    assert ledger.adopt_all([basis("b", "x")]) == {"b": "b"}


def test_only_named_bases_are_shown() -> None:
    ledger = Ledger()
    used, unused = ledger.basis("used", "quoted", "d"), ledger.basis("unused", "quoted", "d")
    held = {"list": (exact(1, "x", used), [exact(2, "x", unused)])}
    assert [b.id for b in ledger.bases(held)] == [used]
    assert [e.value for e in estimates_in(held)] == [1]


def test_sentences_are_kept_once_in_order() -> None:
    ledger = Ledger()
    ledger.assume("b", "a")
    ledger.assume("b")
    ledger.leave_out("x")
    assert (ledger.assumptions, ledger.not_sized) == (("b", "a"), ("x",))
