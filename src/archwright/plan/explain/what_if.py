"""The answer to "what if": the plan that some changes of the needs lead to, held against the plan without them."""

from __future__ import annotations

from archwright.contract.estimate import Estimate
from archwright.contract.plan import Plan
from archwright.contract.record import Record
from archwright.plan.explain.diff import PlanDiff, diff_plans


class WhatIfSummary(Record):
    """What a plan chose and what that costs; all None where nothing was feasible."""

    option: str | None
    total_cost: Estimate | None = None
    cost_per_month: Estimate | None = None
    capex: Estimate | None = None


class WhatIf(Record):
    """`plan` is the one with the changes; `refused`: the error's words if nothing is feasible with them, else ""."""

    changes: tuple[str, ...]
    before: WhatIfSummary
    after: WhatIfSummary
    refused: str
    difference: PlanDiff
    plan: Plan


def compare_what_if(before: Plan, after: Plan, changes: tuple[str, ...], refused: str) -> WhatIf:
    return WhatIf(
        changes=changes,
        before=_summarise_choice(before),
        after=_summarise_choice(after),
        refused=refused,
        difference=diff_plans(before, after),
        plan=after,
    )


def _summarise_choice(plan: Plan) -> WhatIfSummary:
    option = plan.chosen_option
    if option is None:
        return WhatIfSummary(option=None)
    costs = {name: getattr(option, name) for name in ("total_cost", "cost_per_month", "capex")}
    return WhatIfSummary(option=option.name, **costs)
