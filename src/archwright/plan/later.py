"""What this release does not size, said plainly: placements, workload kinds, and parts of the bill."""

from __future__ import annotations

from collections.abc import Iterable

from archwright.contract.needs import Needs, Placement
from archwright.contract.plan import Miss
from archwright.plan.demand import unsized
from archwright.plan.ledger import Ledger
from archwright.plan.money import Draft

UNSIZED_PLACEMENTS: tuple[Placement, ...] = ("on-premises", "hybrid", "serverless")
NOT_YET = "not sized yet"


def unsized_drafts(needs: Needs, ledger: Ledger) -> Iterable[Draft]:
    """One option per allowed placement that nobody can price yet: visible, never chosen."""
    for placement in UNSIZED_PLACEMENTS:
        if placement in needs.placement.allow:
            ledger.leave_out(f"placement {placement}: a later release sizes and prices it")
            yield Draft(
                name=placement,
                placement=placement,
                provider=placement,
                misses=(Miss(constraint=NOT_YET, value=placement, limit=None),),
                notes=("listed because the needs allow it; a later release sizes it",),
            )


def say_what_is_missing(needs: Needs, ledger: Ledger) -> tuple[str, ...]:
    """Fills the plan's `not_sized`; returns the names of the workloads whose cost is in no option."""
    missing = unsized(needs)
    for workload in missing:
        ledger.leave_out(f"workload {workload.name} ({workload.kind}): its cost is not included yet")
    for workload in needs.workloads:
        if workload.traffic is not None and workload.traffic.regions:
            places = ", ".join(workload.traffic.regions)
            ledger.leave_out(f"workload {workload.name}: one region serves all; traffic from {places} is not split yet")
    if needs.data:
        stored = sum(data.size_gib for data in needs.data)
        ledger.leave_out(f"storage of {stored:,.10g} GiB, network and egress: not priced yet")
    if needs.placement.spot:
        ledger.leave_out("spot prices: allowed, but every price is on-demand yet")
    if needs.placement.owned:
        ledger.leave_out("owned machines: kept, but not planned with yet")
    ledger.leave_out("commitments of one and three years: not priced yet", "staff: not priced yet")
    return tuple(workload.name for workload in missing)
