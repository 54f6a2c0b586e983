"""make_plan: every way the needs allow, priced and judged; one chosen; what it promises; what it assumed."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec

from archwright.catalog.catalog import Catalog
from archwright.contract.estimate import Estimate
from archwright.contract.needs import Needs, NeedsSource
from archwright.contract.plan import MachineFacts, Miss, Option, Plan, StackLine
from archwright.contract.record import replace
from archwright.plan.accounting.budget import Draft, Purse
from archwright.plan.accounting.fleet import Chosen
from archwright.plan.accounting.provenance import Ledger
from archwright.plan.assumptions import state_defaults, state_rules
from archwright.plan.capacity.candidates import Sizer, tasks_of
from archwright.plan.capacity.export_control import judge_export
from archwright.plan.capacity.served_load import Pooled, Served, Working, loads_of, served_of
from archwright.plan.decision.comparison import conclude
from archwright.plan.decision.selection import why_infeasible
from archwright.plan.demand.data_residency import refuse_conflict
from archwright.plan.demand.forecast import text_demands
from archwright.plan.evidence.controls import control_promises, controls_of
from archwright.plan.evidence.gateway_settings import Told, tell
from archwright.plan.evidence.predictions import Promised, promises, say_what_is_not_promised
from archwright.plan.evidence.residency_evidence import located
from archwright.plan.options.cloud import CloudPlanner, clouds_of
from archwright.plan.options.cloud_instances import Renter
from archwright.plan.options.expired_prices import fresh_or_stale, refuse_stale, stale_facts, to_quote
from archwright.plan.options.hardware_schedule import Settler
from archwright.plan.options.hosted_api import HostedPlanner
from archwright.plan.options.on_premises import HousePlanner, World
from archwright.plan.options.option_builder import Assembler, Built
from archwright.plan.options.pool_writer import Serving, Writer
from archwright.plan.options.serverless import ServerlessPlanner
from archwright.plan.options.this_machine import LocalPlanner
from archwright.plan.sections.outline import sections_of
from archwright.plan.unsupported import NOT_YET, say_what_is_missing

NOTHING = Miss(constraint=NOT_YET, value="every workload", limit=None)


def make_plan(
    needs: Needs,
    source: NeedsSource,
    catalog: Catalog,
    machine: MachineFacts | None,
    now: datetime,
    *,
    accept_stale: bool = False,
) -> Plan:
    """The plan; `chosen` is None when no option satisfies the needs (`why_infeasible` says why). Machines whose price
    is too old to buy by are left out, unless `accept_stale`.

    Raises MissingError AW-GET-01 when only this machine is allowed and it was not probed, PlanError AW-PLAN-03 where
    the bounds of a workload's data contradict each other.
    """
    refuse_conflict(needs, source, catalog)
    ledger = Ledger()
    machine = _measured(machine, ledger) if machine is not None else None
    state_defaults(needs, ledger)
    planner = Planner(needs, catalog, ledger, accept_stale=accept_stale)
    looked = planner.look(machine, now)
    drafts, purse = tuple(one.draft for one in looked), planner.purse
    concluded = conclude(needs, purse.options(drafts), drafts, ledger, purse)
    best = next((one for one in looked if one.draft.name == concluded.chosen), None)
    promised, served = planner.promised(best)
    told = tell(needs, catalog, best.draft if best is not None else None, promised.queues)
    options = tuple(_noted(o, promised, told) if o.name == concluded.chosen else o for o in concluded.options)
    option = next((one for one in options if one.name == concluded.chosen), None)
    chosen = Chosen(needs, catalog, ledger, option, best.draft.fleets if best is not None else ())
    controls = located(controls_of(needs, catalog, ledger), chosen)
    predictions = (*promised.predictions, *control_promises(controls, option, ledger))
    sections = sections_of(chosen)
    made = Plan(
        needs_file=source.file,
        needs_digest=source.digest,
        catalog_digest=catalog.digest,
        created_at=now.astimezone(UTC).isoformat(timespec="seconds"),
        organisation=needs.organisation.name,
        currency=needs.budget.currency,
        horizon_months=needs.budget.horizon_months,
        chosen=concluded.chosen,
        options=options,
        workloads=told.workloads,
        pools=told.pools,
        predictions=predictions,
        controls=controls,
        assumptions=ledger.assumptions,
        bases=ledger.bases(options, predictions, machine, concluded.decision, sections),
        loads=loads_of(served),
        stack=_stack(needs, catalog, option),
        not_sized=ledger.not_sized,
        machine=machine,
        decision=concluded.decision,
        sections=sections,
        stale_facts=stale_facts(drafts, catalog),
        upstreams=told.upstreams,
        gateway_workers=told.workers,
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


class Planner:
    """Looks at every placement the needs allow."""

    def __init__(self, needs: Needs, catalog: Catalog, ledger: Ledger, *, accept_stale: bool = False) -> None:
        self._needs, self._catalog, self._ledger = needs, catalog, ledger
        self._accept_stale = accept_stale
        self.purse = Purse(needs.budget, catalog, ledger)
        self._tasks = tasks_of(needs, catalog)
        state_rules(needs, self._tasks, ledger)
        self._missing = say_what_is_missing(needs, self._tasks, ledger)
        sizer, writer = Sizer(catalog, needs), Writer(catalog, ledger, needs.placement.site)
        self.world = World(
            needs=needs,
            catalog=catalog,
            sizer=sizer,
            renter=Renter(needs, catalog, sizer),
            writer=writer,
            settler=Settler(catalog, ledger, writer),
            assembler=Assembler(needs, catalog, ledger),
            usd=1 / self.purse.rate,
        )

    def look(self, machine: MachineFacts | None, now: datetime) -> list[Built]:
        """Every allowed placement, in a fixed order."""
        allow, found = self._needs.placement.allow, list[Built]()
        if "this-machine" in allow:
            found.append(self._local(machine))
        found += [one._replace(draft=self._dated(one.draft)) for one in self._elsewhere(now)]
        return [one._replace(draft=self._complete(one.draft)) for one in found]

    def _elsewhere(self, now: datetime) -> Iterable[Built]:
        allow, tasks = self._needs.placement.allow, self._tasks
        clouds = clouds_of(self.world, self._ledger) if {"cloud", "hybrid"} & set(allow) else ()
        yield from self._housed(clouds)
        if "cloud" in allow:
            yield from CloudPlanner(self.world, self._ledger, tasks).options(clouds)
        if "hosted-api" in allow:
            yield from HostedPlanner(self.world, self._ledger, tasks, now).options(clouds)
        if "serverless" in allow:
            yield from ServerlessPlanner(self.world, self._ledger, tasks).options()

    def _housed(self, clouds: tuple[str, ...]) -> Iterable[Built]:
        """With machines of the house: without those whose price has expired where that is possible."""
        allow, catalog = self._needs.placement.allow, self._catalog
        every = HousePlanner(self.world, self._tasks)
        fresh: HousePlanner | None = None
        rest = clouds if "hybrid" in allow else ()
        for provider in (None, *rest) if "on-premises" in allow else rest:
            found = every.option(provider)
            if self._accept_stale or refuse_stale(found.draft, catalog) == found.draft:
                yield found  # the best of all machines has none of them
                continue
            fresh = fresh or HousePlanner(self.world, self._tasks, expired=False)
            dated = fresh.option(provider)
            # What they would save is said once, of the house.
            said = provider is not None and not dated.draft.misses
            yield dated if said else fresh_or_stale(dated, found, catalog, self.world.said)

    def _local(self, machine: MachineFacts | None) -> Built:
        """Texts only: nothing predicts other work on the machine at hand."""
        demands = text_demands(self._needs)
        local = LocalPlanner(self._needs, self._catalog, self._ledger).plan(demands, machine)
        texts = {demand.workload.name for demand in demands}
        others = [workload.name for workload in self._needs.workloads if workload.name not in texts]
        draft = local.draft
        if others:
            note = f"for the texts only; not included: {', '.join(others)}"
            self._ledger.leave_out(f"on this machine: {', '.join(others)} (texts only are planned there yet)")
            draft = draft._replace(notes=(*draft.notes, note))
        return local._replace(draft=draft if demands else draft._replace(misses=(*draft.misses, NOTHING), terms=None))

    def _dated(self, draft: Draft) -> Draft:
        """Nothing is bought by an expired price, by an undated one only after a quote, nor where it may not be sold."""
        draft = judge_export(draft._replace(notes=(*to_quote(draft), *draft.notes)), self._needs.organisation.country)
        known = any(miss.constraint == "stale_facts" for miss in draft.misses)
        return draft if self._accept_stale or known else refuse_stale(draft, self._catalog)

    def _complete(self, draft: Draft) -> Draft:
        """An option that sizes nothing is no option; one that leaves workloads out says so."""
        if not self._tasks:
            return draft._replace(misses=(*draft.misses, NOTHING), terms=None)
        if self._missing and draft.terms is not None:
            note = f"for the sized workloads only; not included: {', '.join(self._missing)}"
            return draft._replace(notes=(*draft.notes, note))
        return draft

    def promised(self, best: Built | None) -> tuple[Promised, tuple[Served, ...]]:
        """Only the chosen option is predicted in full."""
        if best is None:
            return Promised(), ()
        self._ledger.assume(*best.assumptions)
        served = best.served or tuple(self._served(one) for one in best.serving)
        found = promises(served, self._ledger)
        say_what_is_not_promised(self._needs, found.predictions, self._ledger)
        return found, served

    def _served(self, one: Serving | Working) -> Served:
        if isinstance(one, Working):
            return one
        found = served_of(one.demand, one.steady, one.machine, self._catalog, replicas=one.machines)
        found = found._replace(up=one.up)
        return found._replace(part=one.part) if isinstance(found, Pooled) else found


def _noted(option: Option, promised: Promised, told: Told) -> Option:
    return replace(option, notes=(*option.notes, *promised.notes), pools=told.pools)


def _stack(needs: Needs, catalog: Catalog, option: Option | None) -> tuple[StackLine, ...]:
    """What an organisation runs already stays, unpriced; the rest of what this release provides is ours."""
    kept = [StackLine(function=e.kind, product=e.product, existing=True, url=e.url) for e in needs.existing]
    pools = option.pools if option is not None else ()
    engines = {catalog.engines[name].product for pool in pools if (name := pool.launch.engine) in catalog.engines}
    ours = [StackLine(function=name, product="archwright") for name in ("gateway", "access", "monitoring")]
    ours += [StackLine(function="engine", product=product) for product in sorted(engines)]
    taken = {line.function for line in kept}
    return (*kept, *(line for line in ours if line.function not in taken))


__all__ = ["make_plan", "why_infeasible"]
