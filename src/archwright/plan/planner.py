"""Create a plan: price and check every allowed option, choose one, predict its behaviour, record the assumptions."""

from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec

from archwright.catalog.catalog import Catalog
from archwright.contract.decision import Decision
from archwright.contract.estimate import Estimate
from archwright.contract.needs import Needs, NeedsSource, Placement
from archwright.contract.plan import MachineFacts, Option, Plan, StackLine
from archwright.contract.record import replace
from archwright.journal import report_step
from archwright.plan.accounting.budget import BudgetConverter, OptionDraft
from archwright.plan.accounting.fleet import ChosenOption
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.assumptions import (
    NOT_SIZED,
    list_unsized,
    record_default_assumptions,
    record_derived_loads,
    record_rule_assumptions,
)
from archwright.plan.capacity.candidates import SizingCache, list_tasks
from archwright.plan.capacity.served_load import BatchLoad, PooledLoad, ServedLoad, build_served_load, list_load_specs
from archwright.plan.decision.binding_limits import BindingLimitFinder
from archwright.plan.decision.comparison import OptionComparison, compare_options
from archwright.plan.decision.selection import NO_CONCESSIONS, Concessions, build_infeasible_error
from archwright.plan.demand.data_residency import reject_residency_conflict
from archwright.plan.demand.forecast import list_text_demands
from archwright.plan.demand.image_input import takes_images
from archwright.plan.evidence.controls import add_residency_evidence, list_controls, predict_controls
from archwright.plan.evidence.gateway_settings import build_gateway_settings
from archwright.plan.evidence.predictions import PlanPredictions, predict_served_loads, report_unpredicted
from archwright.plan.options.cloud import CloudPlanner, choose_clouds
from archwright.plan.options.cloud_instances import InstanceSelector
from archwright.plan.options.hardware_schedule import HardwareScheduler
from archwright.plan.options.hosted_api import HostedApiPlanner
from archwright.plan.options.on_premises import OnPremisesPlanner, PlanningContext, list_unsold_machines
from archwright.plan.options.option_builder import BuiltOption, OptionBuilder, PoolWriter, ProvisionedLoad
from archwright.plan.options.purchase_rules import (
    check_export_control,
    describe_uncertain_prices,
    list_stale_prices,
    prefer_valid_prices,
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
    """Return the plan; `chosen` is None if no option satisfies the needs (`build_infeasible_error` explains it).

    Machines with an undated or expired price are left out, unless `accept_stale`. Raises MissingError AW-GET-01 (only
    this machine is allowed, and it is not probed) and PlanError AW-PLAN-03 (residency of the data).
    """
    catalog = catalog.accept_stale_prices() if concessions.accept_stale else catalog
    reject_residency_conflict(needs, source, catalog)
    ledger = PlanProvenance()
    machine = _record_machine_probe(machine, ledger) if machine is not None else None
    record_default_assumptions(needs, ledger)
    record_derived_loads(source, ledger)
    planner = Planner(needs, catalog, ledger, concessions)
    built = planner.evaluate_options(machine, now)
    drafts, converter = tuple(one.draft for one in built), planner.converter
    report_step("comparing the options")
    priced = converter.price_options(drafts)
    compared = compare_options(needs, priced, drafts, converter, best_effort=concessions.best_effort)
    report_step("predicting the chosen option")
    best = next((one for one in built if one.draft.name == compared.chosen), None)
    decision = planner.find_binding_limits(best, compared, now) if best is not None else compared.decision
    predicted, served = planner.predict_chosen(best)
    gateway = build_gateway_settings(needs, catalog, best.draft if best is not None else None, predicted.queues)
    option = next((one for one in compared.options if one.name == compared.chosen), None)
    if option is not None:
        option = replace(option, notes=(*option.notes, *predicted.notes), pools=gateway.pools)
    options = tuple(option if option is not None and one.name == option.name else one for one in compared.options)
    chosen = ChosenOption(needs, catalog, ledger, option, best.draft.fleets if best is not None else ())
    controls = add_residency_evidence(list_controls(needs, catalog, ledger), chosen)
    predictions = (*predicted.predictions, *predict_controls(controls, option, ledger))
    sections = build_sections(chosen)
    plan = Plan(
        needs_file=source.file,
        needs_digest=source.digest,
        catalog_digest=catalog.digest,
        created_at=now.astimezone(UTC).isoformat(timespec="seconds"),
        organisation=needs.organisation.name,
        currency=needs.budget.currency,
        horizon_months=needs.budget.horizon_months,
        chosen=compared.chosen,
        options=options,
        workloads=gateway.workloads,
        pools=gateway.pools,
        predictions=predictions,
        controls=controls,
        assumptions=ledger.assumptions,
        bases=ledger.collect_bases(options, predictions, machine, decision, sections),
        loads=list_load_specs(served),
        stack=_list_software_stack(needs, catalog, option),
        not_sized=ledger.not_sized,
        machine=machine,
        decision=decision,
        sections=sections,
        stale_facts=list_stale_prices(drafts, catalog),
        upstreams=gateway.upstreams,
        gateway_workers=gateway.workers,
        proposals=tuple(proposal for one in built for proposal in one.proposals),
    )
    # Through the file form once: a whole number in a float field would change the digest when the plan is read back.
    return msgspec.json.decode(msgspec.json.encode(plan), type=Plan)


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
    def __init__(
        self,
        needs: Needs,
        catalog: Catalog,
        ledger: PlanProvenance,
        concessions: Concessions = NO_CONCESSIONS,
        sizer: SizingCache | None = None,
    ) -> None:
        self._needs, self._catalog, self._ledger = needs, catalog, ledger
        self._concessions = concessions
        self._download = concessions.download
        self.converter = BudgetConverter(needs.budget, catalog, ledger)
        self._tasks = list_tasks(needs, catalog)
        record_rule_assumptions(needs, self._tasks, ledger)
        self._missing = list_unsized(needs, self._tasks, ledger)
        sizer, writer = sizer or SizingCache(catalog, needs), PoolWriter(catalog, ledger, needs.placement.site)
        self.world = PlanningContext(
            needs=needs,
            catalog=catalog,
            sizer=sizer,
            renter=InstanceSelector(needs, catalog, sizer),
            writer=writer,
            settler=HardwareScheduler(catalog, ledger, writer),
            assembler=OptionBuilder(needs, catalog, ledger),
            usd=1 / self.converter.exchange_rate,
        )

    def evaluate_options(self, machine: MachineFacts | None, now: datetime) -> list[BuiltOption]:
        """Every allowed placement, in a fixed order."""
        allow, found = self._needs.placement.allow, list[BuiltOption]()
        if "this-machine" in allow:
            report_step("sizing this machine")
            found.append(self._local_option(machine))
        found += [one._replace(draft=self._refuse_unsellable(one.draft)) for one in self._remote_options(now)]
        for place, one in enumerate(found):
            draft = one.draft
            if not self._tasks:
                draft = draft._replace(misses=(*draft.misses, NOTHING_SIZED), terms=None)
            elif self._missing and draft.terms is not None:
                note = f"for the sized workloads only; not included: {', '.join(self._missing)}"
                draft = draft._replace(notes=(*draft.notes, note))
            found[place] = one._replace(draft=draft)
        return found

    def find_binding_limits(self, best: BuiltOption, compared: OptionComparison, now: datetime) -> Decision:
        """Return the decision with the limits of the needs that cost most."""

        def plan_again(needs: Needs, option: Option) -> OptionDraft | None:
            other = Planner(needs, self._catalog, PlanProvenance(), self._concessions, self.world.sizer)
            found = (other._refuse_unsellable(one.draft) for one in other._remote_options(now, only=option))
            return next((draft for draft in found if draft.name == option.name), None)

        finder = BindingLimitFinder(self._needs, self._catalog, self.world.sizer, self.converter, plan_again)
        chosen = next(option for option in compared.options if option.name == compared.chosen)
        return replace(compared.decision, binding=finder.find_limits(best, chosen, compared.options))

    def _remote_options(self, now: datetime, only: Option | None = None) -> Iterable[BuiltOption]:
        """Every allowed placement but this machine; `only`: those with the placement and provider of an option."""
        allow, tasks = self._needs.placement.allow, self._tasks
        clouds = choose_clouds(self.world, self._ledger) if {"cloud", "hybrid"} & set(allow) else ()
        if only is not None:
            allow, clouds = (only.placement,), (only.provider,) if only.provider in clouds else ()
        report_step("sizing on-premises machines")
        if {"on-premises", "hybrid"} & set(allow):
            yield from self._on_premises_options(allow, clouds, compared=only is None)
        report_step("sizing cloud instances")
        if "cloud" in allow:
            yield from CloudPlanner(self.world, self._ledger, tasks).options(clouds)
        report_step("pricing hosted APIs and serverless offers")
        if "hosted-api" in allow:
            yield from HostedApiPlanner(self.world, self._ledger, tasks, now).options(clouds)
        if "serverless" in allow:
            yield from ServerlessPlanner(self.world, self._ledger, tasks).options()

    def _on_premises_options(
        self, allow: tuple[Placement, ...], clouds: tuple[str, ...], *, compared: bool
    ) -> Iterable[BuiltOption]:
        """Options with on-premises machines; if `compared`, with what machines without a valid price would save."""
        catalog = self._catalog
        world, every = self.world._replace(catalog=catalog.accept_stale_prices()), None
        planner = OnPremisesPlanner(self.world, self._tasks)
        left_out = list_unsold_machines(self.world, self._tasks) if compared else ()
        rest = clouds if "hybrid" in allow else ()
        for provider in (None, *rest) if "on-premises" in allow else rest:
            found = planner.plan_option(provider)
            if not left_out or (provider is not None and not found.draft.misses):
                yield found
                continue
            every = every or OnPremisesPlanner(world, self._tasks)
            yield prefer_valid_prices(found, every.plan_option(provider), catalog, self.world.format_amount)

    def _local_option(self, machine: MachineFacts | None) -> BuiltOption:
        """Text workloads without images only: no other work is predicted on this machine."""
        demands = tuple(one for one in list_text_demands(self._needs) if not takes_images(one.workload))
        planner = ThisMachinePlanner(self._needs, self._catalog, self._ledger, download=self._download)
        local = planner.plan(demands, machine)
        texts = {demand.workload.name for demand in demands}
        others = [workload.name for workload in self._needs.workloads if workload.name not in texts]
        draft = local.draft
        if others:
            note = f"for text workloads only; not included: {', '.join(others)}"
            self._ledger.add_not_sized(f"on this machine: {', '.join(others)} (text workloads only)")
            draft = draft._replace(notes=(*draft.notes, note))
        if not demands:
            draft = draft._replace(misses=(*draft.misses, NOTHING_SIZED), terms=None)
        return local._replace(draft=draft)

    def _refuse_unsellable(self, draft: OptionDraft) -> OptionDraft:
        """Refuse purchases against export rules; note that an uncertain price needs a quote."""
        draft = draft._replace(notes=(*describe_uncertain_prices(draft), *draft.notes))
        return check_export_control(draft, self._needs.organisation.country)

    def predict_chosen(self, best: BuiltOption | None) -> tuple[PlanPredictions, tuple[ServedLoad, ...]]:
        if best is None:
            return PlanPredictions(), ()
        self._ledger.add_assumptions(*best.assumptions)

        def resolve(one: ProvisionedLoad | BatchLoad) -> ServedLoad:
            if isinstance(one, BatchLoad):
                return one
            load = build_served_load(one.demand, one.steady, one.machine, self._catalog, replicas=one.machines)
            load = load._replace(up=one.up)
            return load._replace(part=one.part) if isinstance(load, PooledLoad) else load

        served = best.served or tuple(map(resolve, best.serving))
        found = predict_served_loads(served, self._ledger)
        report_unpredicted(self._needs, found.predictions, self._ledger)
        return found, served


def _list_software_stack(needs: Needs, catalog: Catalog, option: Option | None) -> tuple[StackLine, ...]:
    """The organisation's existing tools stay, unpriced; archwright provides the other functions of this release."""
    kept = [StackLine(function=e.kind, product=e.product, existing=True, url=e.url) for e in needs.existing]
    pools = option.pools if option is not None else ()
    engines = {catalog.engines[name].product for pool in pools if (name := pool.launch.engine) in catalog.engines}
    ours = [StackLine(function=name, product="archwright") for name in ("gateway", "access", "monitoring")]
    ours += [StackLine(function="engine", product=product) for product in sorted(engines)]
    taken = {line.function for line in kept}
    return (*kept, *(line for line in ours if line.function not in taken))


__all__ = ["build_infeasible_error", "make_plan"]
