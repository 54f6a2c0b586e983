"""make_plan: every way the needs allow, priced and judged; one chosen; what it promises; what it assumed."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec

from archwright.catalog.catalog import Catalog
from archwright.contract.estimate import Estimate
from archwright.contract.needs import Needs, NeedsSource
from archwright.contract.plan import MachineFacts, Option, Plan, StackLine
from archwright.contract.record import replace
from archwright.journal import report_step
from archwright.plan.accounting.budget import BudgetConverter, OptionDraft
from archwright.plan.accounting.fleet import ChosenOption
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.assumptions import NOT_SIZED, list_unsized, record_default_assumptions, record_rule_assumptions
from archwright.plan.capacity.candidates import SizingCache, list_tasks
from archwright.plan.capacity.served_load import BatchLoad, PooledLoad, ServedLoad, build_served_load, list_load_specs
from archwright.plan.decision.comparison import compare_options
from archwright.plan.decision.selection import NO_CONCESSIONS, Concessions, build_infeasible_error
from archwright.plan.demand.data_residency import reject_residency_conflict
from archwright.plan.demand.forecast import list_text_demands
from archwright.plan.evidence.controls import add_residency_evidence, list_controls, predict_controls
from archwright.plan.evidence.gateway_settings import build_gateway_settings
from archwright.plan.evidence.predictions import PlanPredictions, predict_served_loads, report_unpredicted
from archwright.plan.options.cloud import CloudPlanner, choose_clouds
from archwright.plan.options.cloud_instances import InstanceSelector
from archwright.plan.options.hardware_schedule import HardwareScheduler
from archwright.plan.options.hosted_api import HostedApiPlanner
from archwright.plan.options.on_premises import OnPremisesPlanner, PlanningContext
from archwright.plan.options.option_builder import BuiltOption, OptionBuilder, PoolWriter, ProvisionedLoad
from archwright.plan.options.purchase_rules import (
    check_export_control,
    describe_undated_prices,
    list_stale_prices,
    prefer_unexpired_prices,
    refuse_expired_prices,
)
from archwright.plan.options.serverless import ServerlessPlanner
from archwright.plan.options.this_machine import ThisMachinePlanner
from archwright.plan.sections.outline import build_sections
from archwright.plan.violations import build_violation

NOTHING_SIZED = build_violation(NOT_SIZED, "every workload", None)


def make_plan(
    needs: Needs,
    source: NeedsSource,
    catalog: Catalog,
    machine: MachineFacts | None,
    now: datetime,
    *,
    concessions: Concessions = NO_CONCESSIONS,
) -> Plan:
    """The plan; `chosen` is None when no option satisfies the needs (`build_infeasible_error` says why). Machines whose
    price is too old to buy by are left out, unless `accept_stale`.

    Raises MissingError AW-GET-01 (only this machine is allowed and not probed), PlanError AW-PLAN-03 (data's bounds).
    """
    reject_residency_conflict(needs, source, catalog)
    ledger = PlanProvenance()
    machine = _record_machine_probe(machine, ledger) if machine is not None else None
    record_default_assumptions(needs, ledger)
    planner = Planner(needs, catalog, ledger, accept_stale=concessions.accept_stale)
    looked = planner.evaluate_options(machine, now)
    drafts, purse = tuple(one.draft for one in looked), planner.purse
    report_step("comparing the options")
    priced = purse.price_options(drafts)
    concluded = compare_options(needs, priced, drafts, ledger, purse, best_effort=concessions.best_effort)
    report_step("predicting the chosen option")
    best = next((one for one in looked if one.draft.name == concluded.chosen), None)
    promised, served = planner.predict_chosen(best)
    told = build_gateway_settings(needs, catalog, best.draft if best is not None else None, promised.queues)
    option = next((one for one in concluded.options if one.name == concluded.chosen), None)
    if option is not None:
        option = replace(option, notes=(*option.notes, *promised.notes), pools=told.pools)
    options = tuple(option if option is not None and one.name == option.name else one for one in concluded.options)
    chosen = ChosenOption(needs, catalog, ledger, option, best.draft.fleets if best is not None else ())
    controls = add_residency_evidence(list_controls(needs, catalog, ledger), chosen)
    predictions = (*promised.predictions, *predict_controls(controls, option, ledger))
    sections = build_sections(chosen)
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
        bases=ledger.collect_bases(options, predictions, machine, concluded.decision, sections),
        loads=list_load_specs(served),
        stack=_list_software_stack(needs, catalog, option),
        not_sized=ledger.not_sized,
        machine=machine,
        decision=concluded.decision,
        sections=sections,
        stale_facts=list_stale_prices(drafts, catalog),
        upstreams=told.upstreams,
        gateway_workers=told.workers,
    )
    # Through its own file form once: a whole number in a field of fractions would change the digest when read back.
    return msgspec.json.decode(msgspec.json.encode(made), type=Plan)


def _record_machine_probe(machine: MachineFacts, ledger: PlanProvenance) -> MachineFacts:
    when = datetime.fromtimestamp(machine.probed_at, UTC).isoformat(timespec="seconds")

    definitions = {
        "memory_bandwidth_bytes_per_s": ("memory_bandwidth", "bytes one thread reads from memory per second"),
        "matmul_flops_per_s": ("matmul", "FLOP/s of a matrix product on one thread"),
        "disk_write_bytes_per_s": ("disk_write", "bytes written to the home's disk per second"),
    }
    facts, formula = (f"probed {when}",), "median of the repeats; band: their spread, at least 10 % each way"
    rates: dict[str, Estimate] = {}
    for field, (name, text) in definitions.items():
        basis = ledger.create_basis(f"machine.{name}", "measured", text, formula=formula, facts=facts)
        rates[field] = replace(getattr(machine, field), basis=basis)
    return replace(machine, **rates)


class Planner:
    def __init__(self, needs: Needs, catalog: Catalog, ledger: PlanProvenance, *, accept_stale: bool = False) -> None:
        self._needs, self._catalog, self._ledger = needs, catalog, ledger
        self._accept_stale = accept_stale
        self.purse = BudgetConverter(needs.budget, catalog, ledger)
        self._tasks = list_tasks(needs, catalog)
        record_rule_assumptions(needs, self._tasks, ledger)
        self._missing = list_unsized(needs, self._tasks, ledger)
        sizer, writer = SizingCache(catalog, needs), PoolWriter(catalog, ledger, needs.placement.site)
        self.world = PlanningContext(
            needs=needs,
            catalog=catalog,
            sizer=sizer,
            renter=InstanceSelector(needs, catalog, sizer),
            writer=writer,
            settler=HardwareScheduler(catalog, ledger, writer),
            assembler=OptionBuilder(needs, catalog, ledger),
            usd=1 / self.purse.exchange_rate,
        )

    def evaluate_options(self, machine: MachineFacts | None, now: datetime) -> list[BuiltOption]:
        """Every allowed placement, in a fixed order."""
        allow, found = self._needs.placement.allow, list[BuiltOption]()
        if "this-machine" in allow:
            report_step("sizing this machine")
            found.append(self._local_option(machine))
        found += [one._replace(draft=self._refuse_unsellable(one.draft)) for one in self._remote_options(now)]
        return [one._replace(draft=self._mark_unsized(one.draft)) for one in found]

    def _remote_options(self, now: datetime) -> Iterable[BuiltOption]:
        allow, tasks = self._needs.placement.allow, self._tasks
        clouds = choose_clouds(self.world, self._ledger) if {"cloud", "hybrid"} & set(allow) else ()
        report_step("sizing on-premises machines")
        yield from self._on_premises_options(clouds)
        report_step("sizing cloud instances")
        if "cloud" in allow:
            yield from CloudPlanner(self.world, self._ledger, tasks).options(clouds)
        report_step("pricing hosted APIs and serverless offers")
        if "hosted-api" in allow:
            yield from HostedApiPlanner(self.world, self._ledger, tasks, now).options(clouds)
        if "serverless" in allow:
            yield from ServerlessPlanner(self.world, self._ledger, tasks).options()

    def _on_premises_options(self, clouds: tuple[str, ...]) -> Iterable[BuiltOption]:
        """With machines of the house: without those whose price has expired where that is possible."""
        allow, catalog = self._needs.placement.allow, self._catalog
        every = OnPremisesPlanner(self.world, self._tasks)
        fresh: OnPremisesPlanner | None = None
        rest = clouds if "hybrid" in allow else ()
        for provider in (None, *rest) if "on-premises" in allow else rest:
            found = every.plan_option(provider)
            if self._accept_stale or refuse_expired_prices(found.draft, catalog) == found.draft:
                yield found  # the best of all machines has none of them
                continue
            fresh = fresh or OnPremisesPlanner(self.world, self._tasks, expired=False)
            dated = fresh.plan_option(provider)
            # What they would save is said once, of the house.
            said = provider is not None and not dated.draft.misses
            yield dated if said else prefer_unexpired_prices(dated, found, catalog, self.world.format_amount)

    def _local_option(self, machine: MachineFacts | None) -> BuiltOption:
        """Texts only: nothing predicts other work on the machine at hand."""
        demands = list_text_demands(self._needs)
        local = ThisMachinePlanner(self._needs, self._catalog, self._ledger).plan(demands, machine)
        texts = {demand.workload.name for demand in demands}
        others = [workload.name for workload in self._needs.workloads if workload.name not in texts]
        draft = local.draft
        if others:
            note = f"for the texts only; not included: {', '.join(others)}"
            self._ledger.add_not_sized(f"on this machine: {', '.join(others)} (texts only are planned there yet)")
            draft = draft._replace(notes=(*draft.notes, note))
        if not demands:
            draft = draft._replace(misses=(*draft.misses, NOTHING_SIZED), terms=None)
        return local._replace(draft=draft)

    def _refuse_unsellable(self, draft: OptionDraft) -> OptionDraft:
        """Nothing is bought by an expired price, by an undated one only after a quote, nor where it may not be sold."""
        draft = draft._replace(notes=(*describe_undated_prices(draft), *draft.notes))
        draft = check_export_control(draft, self._needs.organisation.country)
        known = any(miss.constraint == "stale_facts" for miss in draft.misses)
        return draft if self._accept_stale or known else refuse_expired_prices(draft, self._catalog)

    def _mark_unsized(self, draft: OptionDraft) -> OptionDraft:
        """An option that sizes nothing is no option; one that leaves workloads out says so."""
        if not self._tasks:
            return draft._replace(misses=(*draft.misses, NOTHING_SIZED), terms=None)
        if self._missing and draft.terms is not None:
            note = f"for the sized workloads only; not included: {', '.join(self._missing)}"
            return draft._replace(notes=(*draft.notes, note))
        return draft

    def predict_chosen(self, best: BuiltOption | None) -> tuple[PlanPredictions, tuple[ServedLoad, ...]]:
        if best is None:
            return PlanPredictions(), ()
        self._ledger.add_assumptions(*best.assumptions)
        served = best.served or tuple(self._resolve_load(one) for one in best.serving)
        found = predict_served_loads(served, self._ledger)
        report_unpredicted(self._needs, found.predictions, self._ledger)
        return found, served

    def _resolve_load(self, one: ProvisionedLoad | BatchLoad) -> ServedLoad:
        if isinstance(one, BatchLoad):
            return one
        found = build_served_load(one.demand, one.steady, one.machine, self._catalog, replicas=one.machines)
        found = found._replace(up=one.up)
        return found._replace(part=one.part) if isinstance(found, PooledLoad) else found


def _list_software_stack(needs: Needs, catalog: Catalog, option: Option | None) -> tuple[StackLine, ...]:
    """What an organisation runs already stays, unpriced; the rest of what this release provides is ours."""
    kept = [StackLine(function=e.kind, product=e.product, existing=True, url=e.url) for e in needs.existing]
    pools = option.pools if option is not None else ()
    engines = {catalog.engines[name].product for pool in pools if (name := pool.launch.engine) in catalog.engines}
    ours = [StackLine(function=name, product="archwright") for name in ("gateway", "access", "monitoring")]
    ours += [StackLine(function="engine", product=product) for product in sorted(engines)]
    taken = {line.function for line in kept}
    return (*kept, *(line for line in ours if line.function not in taken))


__all__ = ["make_plan", "build_infeasible_error"]
