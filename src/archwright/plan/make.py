"""make_plan: every way the needs allow, priced and judged; one chosen; what it promises; what it assumed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from archwright.catalog.facts import Catalog
from archwright.contract.estimate import Estimate
from archwright.contract.needs import Needs, NeedsSource
from archwright.contract.plan import MachineFacts, Miss, Option, Plan, StackLine, WorkloadPlan
from archwright.contract.record import replace
from archwright.plan.assumptions import state_defaults
from archwright.plan.choose import choose, why_infeasible
from archwright.plan.cloud import CloudPlanner
from archwright.plan.controls import controls_of
from archwright.plan.demand import Demand, text_demands
from archwright.plan.hosted import HostedPlanner
from archwright.plan.later import NOT_YET, say_what_is_missing, unsized_drafts
from archwright.plan.ledger import Ledger
from archwright.plan.local import LocalPlanner
from archwright.plan.money import Draft, Purse
from archwright.plan.predictions import promises
from archwright.plan.serve import Served

SEED_DIGITS = 8
NOTHING = Miss(constraint=NOT_YET, value="every workload", limit=None)


class Looked(NamedTuple):
    """An option and, where something of ours would serve, what its predictions need."""

    option: Option
    served: tuple[Served, ...]


def make_plan(needs: Needs, source: NeedsSource, catalog: Catalog, machine: MachineFacts | None, now: datetime) -> Plan:
    """The plan; `chosen` is None when no option satisfies the needs (`why_infeasible` says why).

    Raises MissingError AW-GET-01 when only this machine is allowed and it was not probed.
    """
    ledger, demands = Ledger(), text_demands(needs)
    machine = _measured(machine, ledger) if machine is not None else None
    state_defaults(needs, ledger)
    missing = say_what_is_missing(needs, ledger)
    looked = _look(needs, catalog, ledger, (demands, missing), (machine, now, _seed(source)))
    chosen, options = choose(tuple(one.option for one in looked), needs.placement.prefer)
    served = next((one.served for one in looked if one.option.name == chosen), ())
    promised = promises(served, ledger)
    options = tuple(_noted(one, promised.notes) if one.name == chosen else one for one in options)
    option = next((one for one in options if one.name == chosen), None)
    if option is not None and not served:
        ledger.leave_out(f"latency and throughput of {option.provider}: not promised, nothing of ours serves there")
    controls = controls_of(needs, catalog, ledger)
    made = Plan(
        needs_file=source.file,
        needs_digest=source.digest,
        catalog_digest=catalog.digest,
        created_at=now.astimezone(UTC).isoformat(timespec="seconds"),
        organisation=needs.organisation.name,
        currency=needs.budget.currency,
        horizon_months=needs.budget.horizon_months,
        chosen=chosen,
        options=options,
        workloads=_workloads(needs, option),
        pools=option.pools if option is not None else (),
        predictions=promised.predictions,
        controls=controls,
        assumptions=ledger.assumptions,
        bases=ledger.bases(options, promised.predictions, machine),
        loads=tuple(one.spec.load for one in served),
        stack=_stack(needs, catalog, option),
        not_sized=ledger.not_sized,
        machine=machine,
    )
    # Through its own file form once: a whole number in a field of fractions would change the digest when read back.
    return msgspec.json.decode(msgspec.json.encode(made), type=Plan)


def _measured(machine: MachineFacts, ledger: Ledger) -> MachineFacts:
    """The probe's rates, each naming how it was had."""
    when = datetime.fromtimestamp(machine.probed_at, UTC).isoformat(timespec="seconds")

    def based(name: str, rate: Estimate, definition: str) -> Estimate:
        facts = (f"probed {when}",)
        formula = "median of the repeats; band: their spread, at least 10 % each way"
        basis = ledger.basis(f"machine.{name}", "measured", definition, formula=formula, facts=facts)
        return replace(rate, basis=basis)

    memory, matmul, disk = (
        machine.memory_bandwidth_bytes_per_s,
        machine.matmul_flops_per_s,
        machine.disk_write_bytes_per_s,
    )
    return replace(
        machine,
        memory_bandwidth_bytes_per_s=based("memory_bandwidth", memory, "bytes one thread reads from memory per second"),
        matmul_flops_per_s=based("matmul", matmul, "FLOP/s of a matrix product on one thread"),
        disk_write_bytes_per_s=based("disk_write", disk, "bytes written to the home's disk per second"),
    )


def _seed(source: NeedsSource) -> int:
    """The same needs draw the same traffic, in the plan and on the bench."""
    return int(source.digest[:SEED_DIGITS], 16) % 2**31


def _look(
    needs: Needs,
    catalog: Catalog,
    ledger: Ledger,
    work: tuple[tuple[Demand, ...], tuple[str, ...]],
    world: tuple[MachineFacts | None, datetime, int],
) -> list[Looked]:
    """Every allowed placement, in a fixed order; nothing sizable leaves only the unsized ones."""
    (demands, missing), (machine, now, seed) = work, world
    purse, allow = Purse(needs.budget, catalog, ledger), needs.placement.allow
    drafts: list[tuple[Draft, tuple[Served, ...]]] = []
    if "this-machine" in allow:
        drafts.append(LocalPlanner(needs, catalog, ledger, seed).plan(demands, machine))
    if "cloud" in allow:
        drafts.extend(CloudPlanner(needs, catalog, ledger, seed).options(demands))
    if "hosted-api" in allow:
        drafts.extend((draft, ()) for draft in HostedPlanner(needs, catalog, ledger, now).drafts(demands))
    drafts.extend((draft, ()) for draft in unsized_drafts(needs, ledger))
    return [Looked(purse.option(_complete(draft, demands, missing)), served) for draft, served in drafts]


def _complete(draft: Draft, demands: tuple[Demand, ...], missing: tuple[str, ...]) -> Draft:
    """An option that sizes nothing is no option; one that leaves workloads out says so."""
    if not demands:
        return draft._replace(misses=(*draft.misses, NOTHING), terms=None)
    if missing and draft.terms is not None:
        return draft._replace(notes=(*draft.notes, f"for the sized workloads only; not included: {', '.join(missing)}"))
    return draft


def _noted(option: Option, notes: tuple[str, ...]) -> Option:
    return replace(option, notes=(*option.notes, *notes))


def _workloads(needs: Needs, option: Option | None) -> tuple[WorkloadPlan, ...]:
    models = option.models if option is not None else {}
    pools = {name: pool.name for pool in (option.pools if option is not None else ()) for name in pool.workloads}
    return tuple(
        WorkloadPlan(name=workload.name, model=models.get(workload.name), pool=pools.get(workload.name))
        for workload in needs.workloads
    )


def _stack(needs: Needs, catalog: Catalog, option: Option | None) -> tuple[StackLine, ...]:
    """What an organisation runs already stays, unpriced; the rest of what this release provides is ours."""
    kept = [StackLine(function=e.kind, product=e.product, existing=True, url=e.url) for e in needs.existing]
    engines = {catalog.engines[pool.launch.engine].product for pool in (option.pools if option is not None else ())}
    ours = [StackLine(function=name, product="archwright") for name in ("gateway", "access", "monitoring")]
    ours += [StackLine(function="engine", product=product) for product in sorted(engines)]
    taken = {line.function for line in kept}
    return (*kept, *(line for line in ours if line.function not in taken))


__all__ = ["make_plan", "why_infeasible"]
