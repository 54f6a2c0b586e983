"""A suite's result is as stated only if each failed test is a stated refusal and each stated refusal occurs."""

from __future__ import annotations

from .conftest import Outcome, list_differences


def test_failures_and_stale_refusals_are_reported() -> None:
    outcomes = [Outcome("A::one", ""), Outcome("A::two", "Error code: 400"), Outcome("B::two", "Error code: 500")]
    assert list_differences(outcomes[:2], {"A::two": "code: 400"}) == ""
    assert list_differences(outcomes, {"two": "code: 400"}) == "B::two: Error code: 500"
    assert list_differences(outcomes[:1], {"A::one": "code: 400"}) == "A::one: not refused"
