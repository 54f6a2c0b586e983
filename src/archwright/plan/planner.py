"""Create a plan: price and check every allowed option, choose one, predict its behaviour, record the assumptions."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property

import msgspec

from archwright.catalog.catalog import Catalog
from archwright.contract.decision import Decision, ModelChoice
from archwright.contract.estimate import Estimate
from archwright.contract.needs import TEXT_KINDS, Needs, NeedsSource, Placement
from archwright.contract.plan import MachineFacts, Option, Plan, StackLine, WorkloadPlan
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
from archwright.plan.capacity.candidates import SizingCache, WorkloadTask, fix_model, list_tasks
from archwright.plan.capacity.served_load import (
    BatchLoad,
    PooledLoad,
    ServedLoad,
    add_option_effects,
    build_served_load,
    list_load_specs,
)
from archwright.plan.decision.binding_limits import BindingLimitFinder
from archwright.plan.decision.comparison import OptionComparison, compare_options
from archwright.plan.decision.model_choices import (
    ModelChooser,
    PlannedVariant,
    VariantSource,
    describe_better_choice,
)
from archwright.plan.decision.selection import NO_CONCESSIONS, Concessions, build_infeasible_error, choose_option
from archwright.plan.demand.data_residency import reject_residency_conflict
from archwright.plan.demand.forecast import list_text_demands
from archwright.plan.demand.image_input import takes_images
from archwright.plan.demand.model_selection import list_shown_evidence, set_default_floors
from archwright.plan.evidence.controls import add_residency_evidence, list_controls, predict_controls
from archwright.plan.evidence.gateway_settings import build_gateway_settings
from archwright.plan.evidence.pilot_runs import list_pilots
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
REMOTE_STEPS: dict[Placement, str] = {
    "cloud": "sizing cloud instances",
    "hosted-api": "pricing hosted models",
    "serverless": "pricing serverless offers",
}


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
    needs, floors = set_default_floors(needs)
    ledger.add_assumptions(*floors)
    machine = _record_machine_probe(machine, ledger) if machine is not None else None
    record_default_assumptions(needs, ledger)
    record_derived_loads(source, ledger)
    planner = Planner(needs, catalog, ledger, now, concessions)
    built = planner.evaluate_options(machine)
    report_step("comparing the options")
    built, choices = planner.choose_models(built)
    drafts, converter = tuple(one.draft for one in built), planner.converter
    priced = converter.price_options(drafts)
    compared = compare_options(needs, priced, drafts, converter, best_effort=concessions.best_effort)
    report_step("predicting the chosen option")
    best = next((one for one in built if one.draft.name == compared.chosen), None)
    decision = planner.find_binding_limits(best, compared) if best is not None else compared.decision
    option = next((one for one in compared.options if one.name == compared.chosen), None)
    pilots = list_pilots(best, option, planner.converter) if best is not None and option is not None else ()
    decision = replace(decision, choices=choices, pilots=pilots)
    predicted, served = planner.predict_chosen(best)
    gateway = build_gateway_settings(needs, catalog, best.draft if best is not None else None, predicted.queues)
    gateway = gateway._replace(pools=tuple(add_option_effects(pool, served, ledger) for pool in gateway.pools))
    if option is not None:
        notes = (*describe_better_choice(choices), *option.notes, *predicted.notes)
        # Engines on this machine have no other probabilities.
        known = {one.limit for one in option.limits}
        added = (one for one in predicted.limits if one.limit not in known)
        assessed = (replace(one, probability=round(one.probability, 4)) for one in added)
        option = replace(option, notes=notes, pools=gateway.pools, limits=(*option.limits, *assessed))
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
        workloads=tuple(planner.add_evidence(planned, option) for planned in gateway.workloads),
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
        now: datetime,
        concessions: Concessions = NO_CONCESSIONS,
        sizer: SizingCache | None = None,
    ) -> None:
        self._needs, self._catalog, self._ledger, self._now = needs, catalog, ledger, now
        self._concessions = concessions
        self._download = concessions.download
        self.converter = BudgetConverter(needs.budget, catalog, ledger)
        self._tasks = list_tasks(needs, catalog)
        record_rule_assumptions(needs, self._tasks, ledger, catalog=catalog)
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
            sites={},
        )
        allow = needs.placement.allow
        self._site_prices: dict[str, Mapping[str, float]] = {}
        self._clouds = choose_clouds(self.world, ledger) if {"cloud", "hybrid"} & set(allow) else ()

    def evaluate_options(self, machine: MachineFacts | None) -> list[BuiltOption]:
        """Every allowed placement, in a fixed order."""
        allow, found = self._needs.placement.allow, list[BuiltOption]()
        if "this-machine" in allow:
            report_step("sizing this machine")
            found.append(self._describe_gaps(self._local_option(machine)))
        report_step("sizing on-premises machines")
        sites: list[str | None] = [None] if "on-premises" in allow else []
        sites += self._clouds if "hybrid" in allow else []
        found += map(self._complete_option, self._on_premises_options(sites, self._tasks))
        for placement, step in REMOTE_STEPS.items():
            if placement in allow:
                report_step(step)
                found += map(self._complete_option, self._remote_options(placement, self._tasks))
        return found

    def find_binding_limits(self, best: BuiltOption, compared: OptionComparison) -> Decision:
        """Return the decision with the limits of the needs that cost most."""

        def plan_again(needs: Needs, option: Option) -> OptionDraft | None:
            other = Planner(needs, self._catalog, PlanProvenance(), self._now, self._concessions, self.world.sizer)
            found = other._plan_like(option, other._tasks)
            return found.draft if found is not None else None

        finder = BindingLimitFinder(self._needs, self._catalog, self.world.sizer, self.converter, plan_again)
        chosen = next(option for option in compared.options if option.name == compared.chosen)
        return replace(compared.decision, binding=finder.find_limits(best, chosen, compared.options))

    def _remote_options(
        self, placement: Placement, tasks: tuple[WorkloadTask, ...], provider: str | None = None
    ) -> Iterable[BuiltOption]:
        """Yield the options of a placement with rented machines or models, or only those at `provider`."""
        clouds = self._clouds if provider is None else (provider,)
        if placement == "cloud":
            yield from CloudPlanner(self.world, self._ledger, tasks).options(clouds)
        elif placement == "hosted-api":
            yield from HostedApiPlanner(self.world, self._ledger, tasks, self._now).options(self._clouds, provider)
        else:
            yield from ServerlessPlanner(self.world, self._ledger, tasks).options()

    def _complete_option(self, one: BuiltOption) -> BuiltOption:
        return self._describe_gaps(one._replace(draft=self._refuse_unsellable(one.draft)))

    def _describe_gaps(self, one: BuiltOption) -> BuiltOption:
        draft = one.draft
        if not self._tasks:
            draft = draft._replace(misses=(*draft.misses, NOTHING_SIZED), terms=None)
        elif self._missing and draft.terms is not None:
            note = f"for the sized workloads only; not included: {', '.join(self._missing)}"
            draft = draft._replace(notes=(*draft.notes, note))
        return one._replace(draft=draft)

    def choose_models(self, built: list[BuiltOption]) -> tuple[list[BuiltOption], tuple[ModelChoice, ...]]:
        """Give the cheapest options the best models at equal cost; return the options and three choices of models."""
        tasks = tuple(task for task in self._tasks if task.demand is not None and len(task.models) > 0)
        tasks = tuple(task for task in tasks if task.workload.kind in TEXT_KINDS and task.workload.model is None)
        source = VariantSource(tasks, self._list_model_prices, self._plan_variant)
        chooser, convert = ModelChooser(source, self.converter, self._catalog), self.converter.price_option
        variants = {one.draft.name: PlannedVariant(one, convert(one.draft)) for one in built}
        chosen, better = "", set[str]()
        while tasks:
            name, _ = choose_option(tuple(one.option for one in variants.values()), self._needs.placement.prefer)
            if name is None or name in better:
                chosen = name or ""
                break
            better.add(name)
            variants[name] = chooser.improve_option(variants[name])
        found, best = [one.built for one in variants.values()], variants.get(chosen)
        if best is None:
            return found, ()
        prefer = self._needs.placement.prefer
        others = [one for one in variants.values() if prefer in (None, one.option.placement)]
        return found, chooser.list_choices(best, others if best.option.placement == prefer else variants.values())

    @cached_property
    def _site_planner(self) -> OnPremisesPlanner:
        return OnPremisesPlanner(self.world, self._tasks)

    @cached_property
    def _cloud_planner(self) -> CloudPlanner:
        return CloudPlanner(self.world, self._ledger, self._tasks)

    def _list_model_prices(self, draft: OptionDraft, task: WorkloadTask) -> Mapping[str, float]:
        """Return the USD over the horizon of the models that an option could use for a task, as far as they differ."""
        world, tasks = self.world, self._tasks
        if draft.placement in ("on-premises", "hybrid"):
            if task.name not in self._site_prices:
                self._site_prices[task.name] = self._site_planner.price_models(task)
            return self._site_prices[task.name]
        if draft.placement == "cloud":
            return self._cloud_planner.price_models(draft, task)
        if draft.placement == "hosted-api":
            return HostedApiPlanner(world, self._ledger, tasks, self._now).price_models(draft.provider, task)
        if draft.placement == "serverless":
            return ServerlessPlanner(world, self._ledger, tasks).price_models(draft.provider, task)
        return {}

    def _plan_variant(self, draft: OptionDraft, models: Mapping[str, str]) -> BuiltOption | None:
        """Plan an option again with one model for each workload in `models`."""
        return self._plan_like(draft, tuple(fix_model(task, models) for task in self._tasks))

    def _plan_like(self, draft: OptionDraft | Option, tasks: tuple[WorkloadTask, ...]) -> BuiltOption | None:
        """Plan the option of this name for `tasks`."""
        if draft.placement in ("on-premises", "hybrid"):
            site = None if draft.placement == "on-premises" else draft.provider
            options = self._on_premises_options([site], tasks, compared=False)
        else:
            options = self._remote_options(draft.placement, tasks, draft.provider)
        found = next((one for one in options if one.draft.name == draft.name), None)
        return self._complete_option(found) if found is not None else None

    def add_evidence(self, planned: WorkloadPlan, option: Option | None) -> WorkloadPlan:
        """Return the workload with the scores of its model in the chosen option."""
        workload = next(one for one in self._needs.workloads if one.name == planned.name)
        model = option.models.get(planned.name) if option is not None else None
        if option is None or model is None or workload.kind not in TEXT_KINDS:
            return planned
        catalog, hosted = self._catalog, option.placement == "hosted-api"
        scores = catalog.hosted_evidence(option.provider, model) if hosted else catalog.open_evidence(model)
        return replace(planned, evidence=list_shown_evidence(workload, scores, catalog))

    def _on_premises_options(
        self, providers: Sequence[str | None], tasks: tuple[WorkloadTask, ...], *, compared: bool = True
    ) -> Iterable[BuiltOption]:
        """Options with on-premises machines; if `compared`, with what machines without a valid price would save."""
        if not providers:
            return
        catalog, every = self._catalog, None
        world = self.world._replace(catalog=catalog.accept_stale_prices(), sites={})
        planner = self._site_planner if tasks is self._tasks else OnPremisesPlanner(self.world, tasks)
        left_out = list_unsold_machines(self.world, tasks) if compared else ()
        for provider in providers:
            found = planner.plan_option(provider)
            if not left_out or (provider is not None and not found.draft.misses):
                yield found
                continue
            every = every or OnPremisesPlanner(world, tasks)
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
        draft = draft._replace(notes=(*describe_uncertain_prices(draft, self._catalog), *draft.notes))
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
