"""How long logs must be kept: the longest time that a control of the plan demands."""

from archwright.contract.plan import Plan
from archwright.contract.record import Record


class LogRetention(Record):
    """`days` is 0 if no control demands a time; `reason` names the control."""

    days: int = 0
    reason: str = "no control of the plan demands a time"


def find_log_retention(plan: Plan) -> LogRetention:
    """Return the longest retention that the plan's controls state in their feature."""
    found = [
        LogRetention(days=days, reason=f"{control.demanded_by} demands {days} days")
        for control in plan.controls
        if (days := control.retention_days)
    ]
    return max(found, key=lambda one: one.days, default=LogRetention())
