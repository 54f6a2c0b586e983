"""What this release does not size, said plainly."""

from __future__ import annotations

from archwright.contract.needs import Needs
from archwright.plan.accounting.provenance import Ledger
from archwright.plan.capacity.candidates import Task

NOT_YET = "not sized yet"


def unsized(needs: Needs, tasks: tuple[Task, ...]) -> tuple[str, ...]:
    """Workloads whose cost is in no option: their traffic says too little."""
    sized = {task.workload.name for task in tasks}
    return tuple(workload.name for workload in needs.workloads if workload.name not in sized)


def say_what_is_missing(needs: Needs, tasks: tuple[Task, ...], ledger: Ledger) -> tuple[str, ...]:
    """Fills the plan's `not_sized`; returns the names of the workloads whose cost is in no option."""
    missing = unsized(needs, tasks)
    kinds = {workload.name: workload.kind for workload in needs.workloads}
    for name in missing:
        ledger.leave_out(f"workload {name} ({kinds[name]}): its cost is not included, its traffic says too little")
    for workload in needs.workloads:
        apart = any(task.place is not None for task in tasks if task.workload.name == workload.name)
        if workload.regions and not apart:
            places = ", ".join(f"{place} {share:.0%}" for place, share in workload.regions.items())
            ledger.leave_out(
                f"workload {workload.name}: one region answers all of its traffic ({places}); the way there and back "
                "(about 0.1 to 0.3 s between continents) comes on top of its latencies, which count from the gateway"
            )
    return missing
