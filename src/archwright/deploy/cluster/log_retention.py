"""How long logs must be kept: the longest time that a control of the plan demands."""

import re

from archwright.contract.plan import Plan
from archwright.contract.record import Record

FLOOR = re.compile(r"retention floor (\d+) days")


class LogRetention(Record):
    """`days` is 0 if no control demands a time; `reason` names the control."""

    days: int = 0
    reason: str = "no control of the plan demands a time"


def find_log_retention(plan: Plan) -> LogRetention:
    """Return the longest retention that the plan's controls state in their feature."""
    found = [
        LogRetention(days=int(match[1]), reason=f"{control.demanded_by} demands {match[1]} days")
        for control in plan.controls
        if (match := FLOOR.search(control.feature)) is not None
    ]
    return max(found, key=lambda one: one.days, default=LogRetention())
