"""Answer to "what if": the plan with changed needs, compared with the plan without the changes."""

from archwright.contract.estimate import Estimate
from archwright.contract.plan import Plan
from archwright.contract.record import Record
from archwright.plan.explain.diff import PlanDiff, diff_plans


class WhatIfSummary(Record):
    """Choice and cost of a plan; all None if no option was feasible."""

    option: str | None
    total_cost: Estimate | None = None
    cost_per_month: Estimate | None = None
    capex: Estimate | None = None


class WhatIf(Record):
    """`plan`: the plan with the changes; `refused`: the error's message if no option is feasible with them, else ""."""

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
    costs = {name: getattr(plan.chosen_option, name, None) for name in ("total_cost", "cost_per_month", "capex")}
    return WhatIfSummary(option=plan.chosen, **costs)
