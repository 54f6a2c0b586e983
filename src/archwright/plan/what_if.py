"""The answer to "what if": the plan that some changes of the needs lead to, held against the plan without them."""

from __future__ import annotations

from archwright.contract.plan import Plan
from archwright.contract.record import Record
from archwright.plan.diff import PlanDiff, diff


class WhatIf(Record):
    """`changes` as they were asked for; `plan` is the one with them. `refused` says why nothing is feasible with them,
    in the words of the error; "" where something is.
    """

    changes: tuple[str, ...]
    before: str | None
    after: str | None
    refused: str
    difference: PlanDiff
    plan: Plan


def what_if(before: Plan, after: Plan, changes: tuple[str, ...], refused: str) -> WhatIf:
    return WhatIf(
        changes=changes,
        before=before.chosen,
        after=after.chosen,
        refused=refused,
        difference=diff(before, after),
        plan=after,
    )
