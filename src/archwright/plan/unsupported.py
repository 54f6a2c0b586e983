"""What this release does not size, said plainly."""

from __future__ import annotations

from archwright.contract.needs import Needs
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.capacity.candidates import WorkloadTask

NOT_SIZED = "not sized yet"


def list_unsized_workloads(needs: Needs, tasks: tuple[WorkloadTask, ...]) -> tuple[str, ...]:
    """Workloads whose cost is in no option: their traffic says too little."""
    sized = {task.workload.name for task in tasks}
    return tuple(workload.name for workload in needs.workloads if workload.name not in sized)


def report_unsupported(needs: Needs, tasks: tuple[WorkloadTask, ...], ledger: PlanProvenance) -> tuple[str, ...]:
    """Fills the plan's `not_sized`; returns the names of the workloads whose cost is in no option."""
    missing = list_unsized_workloads(needs, tasks)
    kinds = {workload.name: workload.kind for workload in needs.workloads}
    for name in missing:
        ledger.add_not_sized(f"workload {name} ({kinds[name]}): its cost is not included, its traffic says too little")
    for workload in needs.workloads:
        apart = any(task.place is not None for task in tasks if task.workload.name == workload.name)
        if workload.regions and not apart:
            places = ", ".join(f"{place} {share:.0%}" for place, share in workload.regions.items())
            ledger.add_not_sized(
                f"workload {workload.name}: one region answers all of its traffic ({places}); the way there and back "
                "(about 0.1 to 0.3 s between continents) comes on top of its latencies, which count from the gateway"
            )
    return missing
