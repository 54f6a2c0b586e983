"""The option "this machine": embedded engines on the local machine, whose only cost is electricity.

One pool per workload. An engine uses all usable cores except one (for the gateway and the control plane) and processes
prompts in small batches, so that a long prompt never blocks running streams. Model, quantisation and slots: see
local_models.py. A workload may use the memory that the workloads before it, and the smallest models of those after it,
leave. A slot holds twice the 95th percentile of prompt plus answer, because lengths are log-normal and long requests
must not be refused.
"""

from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.contract.estimate import Estimate, multiply_estimates, within_factor
from archwright.contract.needs import Needs
from archwright.contract.number_format import format_exact, format_number, format_quantity, format_share
from archwright.contract.plan import ConstraintViolation, Launch, LimitProbability, MachineFacts, ModelProposal, Pool
from archwright.contract.record import replace
from archwright.errors import missing_extra
from archwright.plan.accounting.budget import USD, OptionDraft
from archwright.plan.accounting.cash_flow import make_recurring_flow
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.capacity.availability import MACHINE_AVAILABILITY, MACHINE_AVAILABILITY_LOW, RedundancyRequirement
from archwright.plan.capacity.served_load import LocalLoad
from archwright.plan.capacity.service_levels import CheckedLevel, check_availability, find_latency_misses
from archwright.plan.cost.prices import STATED_BY_NEEDS, format_source
from archwright.plan.demand.data_residency import collect_bounds, format_bounds, is_country_inside
from archwright.plan.demand.forecast import HOURS_PER_MONTH, Demand
from archwright.plan.demand.model_selection import format_licence_note, select_open_models
from archwright.plan.options.local_models import QUALITY_MARGIN, LocalChoice, LocalFile, LocalModelChooser
from archwright.plan.options.option_builder import BuiltOption
from archwright.plan.options.this_machine_gpu import AcceleratorPlanner, AcceleratorPool
from archwright.plan.violations import build_violation
from archwright.simulate.local_engine import SPIN_ENVIRONMENT, build_engine_settings
from archwright.simulate.serving_simulation import (
    WIDEST_BAND,
    WIDEST_TTFT_BAND,
    estimate_disk,
    estimate_peak_memory,
    replica_memory,
)
from archwright.sizing.hardware.power import carbon_kg
from archwright.sizing.hardware.roofline import (
    CORE_W,
    MACHINE_BASE_W,
    POWER_FACTOR,
)

PLACEMENT = "this-machine"


class LocalCandidates(NamedTuple):
    """The files that may serve a workload at once, and the others that a download would give."""

    demand: Demand
    files: tuple[LocalFile, ...]
    others: tuple[LocalFile, ...]


class Findings(NamedTuple):
    """Violations, notes and limits that checks append to."""

    misses: list[ConstraintViolation]
    notes: list[str]
    limits: list[LimitProbability]

    def add_level(self, level: CheckedLevel) -> None:
        self.misses.extend(level.misses)
        self.notes.extend(level.notes)
        self.limits.extend(level.limits)


class ThisMachinePlanner:
    """`download`: files that must be fetched may be chosen."""

    def __init__(self, needs: Needs, catalog: Catalog, ledger: PlanProvenance, *, download: bool = False) -> None:
        self._needs, self._catalog, self._ledger = needs, catalog, ledger
        self._engine = catalog.embedded_engine
        self._download = download

    def plan(self, demands: tuple[Demand, ...], machine: MachineFacts | None) -> BuiltOption:
        """Plan all texts. Raises MissingError AW-GET-01 if only this machine is allowed and it was not probed."""
        draft, country = OptionDraft(PLACEMENT, "this-machine", PLACEMENT), self._needs.organisation.country
        if machine is None:
            if self._needs.placement.allow == (PLACEMENT,):
                raise missing_extra("local", "xllamacpp", "planning for this machine")
            return BuiltOption(draft._replace(misses=(build_violation("machine", "not probed", None),)))
        limits = [collect_bounds(self._needs, demand.workload) for demand in demands]
        outside = [bounds for bounds in limits if not is_country_inside(self._catalog, bounds, country)]
        residency = [build_violation("residency", country, format_bounds(bounds)) for bounds in outside[:1]]
        accelerators = AcceleratorPlanner(self._needs, self._catalog, self._ledger, machine)
        findings, fast, rest = Findings(residency, [*accelerators.notes], []), list[AcceleratorPool](), list[Demand]()
        for demand in demands:
            models = select_open_models(demand, self._catalog).models
            found = accelerators.plan_pool(demand, models, download=self._download)
            if found is None:
                rest.append(demand)
            else:
                fast.append(found)
                findings.notes.extend(found.notes)
                findings.add_level(check_availability(demand.workload, RedundancyRequirement(1, 0)))
        served, own, slower = self._serve(rest, machine, findings)
        faster = {one.workload for one in accelerators.proposals}
        if machine.is_busy and served:
            findings.notes.append(
                f"other programs used {format_share(machine.busy_share or 0.0)} of the processor during the probe. "
                "Models are compared at the speed without them; predictions are for the present speed"
            )
        proposals = [*accelerators.proposals, *(one for one in slower if one.workload not in faster)]
        pools = [*(one.pool for one in fast), *own]
        self._check_machine_limits(served, own, machine, findings)
        draw, draw_formula = _estimate_draw_kw(machine, sum(one.draw_w for one in fast))
        power, months = self._price_electricity(draw, draw_formula), self._needs.budget.horizon_months
        paid = make_recurring_flow("electricity", "energy", power.value, months, (power.basis,))
        terms = (paid._replace(machines_of=tuple(pool.name for pool in pools)),)
        basis = self._ledger.create_basis(
            "this-machine.power",
            "assumed",
            "power of the busy machine, its energy per month if it is always on, and the carbon of that energy",
            formula=f"{draw_formula}, x {format_exact(HOURS_PER_MONTH)} h",
            facts=("power was not measured: a factor of 2 in both directions",),
        )
        draw, grams = replace(draw, basis=basis), self._catalog.grid_gco2_per_kwh(country)
        energy = draw.scaled(HOURS_PER_MONTH, unit="kWh")
        draft = draft._replace(
            regions=() if outside else (country,),
            misses=tuple(findings.misses),
            limits=tuple(findings.limits),
            terms=terms if pools and len(pools) == len(demands) else None,
            pools=tuple(pools),
            models={pool.name: pool.model for pool in pools},
            notes=tuple(findings.notes),
            power_kw=draw,
            energy_kwh_per_month=energy,
            carbon_kg_per_month=None if grams is None else replace(carbon_kg(energy, grams), basis=basis),
        )
        return BuiltOption(draft, served=(*served, *(one.load for one in fast)), proposals=tuple(proposals))

    def _serve(
        self, demands: list[Demand], machine: MachineFacts, findings: Findings
    ) -> tuple[list[LocalLoad], list[Pool], list[ModelProposal]]:
        chooser, proposals = LocalModelChooser(self._catalog, self._engine, machine), list[ModelProposal]()
        served, pools = list[LocalLoad](), list[Pool]()
        candidates = [self._list_candidates(demand, chooser, machine, findings) for demand in demands]
        least = [chooser.least_memory(one.demand, one.files) for one in candidates]
        named = all(one.demand.workload.model is not None for one in candidates)
        left = chooser.usable_memory(named=named) - sum(least)
        for one, reserved in zip(candidates, least, strict=True):
            left += reserved
            choice = chooser.choose(one.demand, one.files, left)
            better = _find_download(one, choice, chooser, left)
            name = one.demand.workload.name
            found = better or choice
            limit = chooser.explain_limit(one.demand, one.files + one.others, found.file, left) if found else ""
            if better is not None and not self._download:
                proposals.append(_propose(name, better.file, choice, limit))
                limit = ""
            else:
                choice = found
            if choice is not None:
                left -= replica_memory(choice.spec).total
                served.append(LocalLoad(one.demand, choice.spec))
                pools.append(self._build_pool(one.demand, choice, machine))
                self._explain_choice(one.demand, choice, limit, findings)
            elif one.files:
                left -= reserved
                findings.misses.append(build_violation(f"{name}.memory_bytes", reserved, float(machine.memory_bytes)))
        return served, pools, proposals

    def _list_candidates(
        self, demand: Demand, chooser: LocalModelChooser, machine: MachineFacts, findings: Findings
    ) -> LocalCandidates:
        found, workload = select_open_models(demand, self._catalog), demand.workload
        findings.misses.extend(found.misses)
        findings.notes.extend(found.notes)
        files = chooser.list_files(found.models, workload.model)
        here = tuple(one for one in files if one.here)
        if workload.model is not None:
            known = files if self._download else tuple(one for one in files if one.artefact.sha256)
            kept, others = here or known or files, tuple[LocalFile, ...]()
        else:
            room = machine.disk_free_bytes
            fetched = tuple(one for one in files if not one.here and one.artefact.size_bytes <= room)
            kept, others = (fetched, ()) if self._download and not here else (here, fetched)
        if found.models and not kept:
            value = "no file in the home" if others else "no file to fetch"
            limit = "archwright plan --download" if others else ", ".join(sorted(self._catalog.model_files))
            findings.misses.append(build_violation(f"{workload.name}.model", value, limit))
        return LocalCandidates(demand, kept, others)

    def _explain_choice(self, demand: Demand, choice: LocalChoice, limit: str, findings: Findings) -> None:
        workload, file = demand.workload, choice.file
        if workload.model is None:
            best = "the best" if self._download else "the best of the home"
            rank = f"{best} that fits memory and keeps the limits"
            if not choice.keeps_limits:
                rank = "the fastest file, because none keeps every limit"
            findings.notes.append(f"{workload.name}: {file.label} ({file.quality_label}) is {rank}{limit}")
            self._ledger.add_assumptions(
                "the model on this machine: the best mean over six public benchmarks, where a fit replaces missing "
                "scores (docs/models.md); then the larger quantisation"
            )
        if not file.here:
            source = file.artefact.repository or file.artefact.package
            findings.notes.append(f"{workload.name}: the file of {file.label} must be fetched from {source}")
        findings.notes.extend(format_licence_note(file.model))
        self._ledger.add_assumptions(
            f"{workload.name}: predictions and `bench` use a typical one of many random peak windows. "
            "It depends smoothly on the machine's speed, and other windows may differ more. Simulated intervals are "
            f"limited to a factor of {format_exact(WIDEST_BAND)} ({format_exact(WIDEST_TTFT_BAND)} for TTFT) in both "
            "directions. A machine with unsteady speed is therefore reported as worse than predicted"
        )
        findings.misses.extend(find_latency_misses(choice.spec, workload.slo))

    def _build_pool(self, demand: Demand, choice: LocalChoice, machine: MachineFacts) -> Pool:
        spec = choice.spec
        return Pool(
            name=demand.workload.name,
            model=spec.model.id,
            workloads=(demand.workload.name,),
            placement="this-machine",
            provider=PLACEMENT,
            region=self._needs.organisation.country,
            country=site.country if (site := self._needs.placement.site) is not None else "",
            machine=f"{machine.cores_usable} cores, {format_quantity(machine.memory_bytes, 'bytes')}",
            accelerator="",
            accelerator_count=0,
            replicas=1,
            slots=spec.slots,
            context_tokens=spec.context_tokens,
            default_max_tokens=spec.context_tokens,
            quantisation=spec.quantisation,
            launch=Launch(
                engine=self._engine.id,
                settings=build_engine_settings(spec, choice.file.artefact),
                environment=SPIN_ENVIRONMENT,
                health_path=self._engine.health_path,
                metrics=self._catalog.list_engine_series(self._engine.id),
            ),
            artefact=choice.file.artefact,
        )

    def _check_machine_limits(
        self, served: list[LocalLoad], pools: list[Pool], machine: MachineFacts, findings: Findings
    ) -> None:
        """Check availability, and memory and disk of all pools together."""
        for workload in (one.demand.workload for one in served):
            findings.add_level(check_availability(workload, RedundancyRequirement(1, 0)))
        memory = sum(estimate_peak_memory(one.spec, "").value for one in served)
        if len(served) > 1 and memory > machine.memory_bytes:
            findings.misses.append(build_violation("memory_bytes", memory, float(machine.memory_bytes)))
        held = [
            pool.artefact.size_bytes for pool in pools if pool.artefact and pool.artefact.sha256 in self._catalog.held
        ]
        files = sum(estimate_disk(one.spec, "").value for one in served) - sum(held)
        if files > machine.disk_free_bytes:
            findings.misses.append(build_violation("disk_bytes", files, float(machine.disk_free_bytes)))
        if len(served) > 1:
            names = ", ".join(one.demand.workload.name for one in served)
            findings.notes.append(f"{names} share the machine; each prediction assumes that the others are idle")

    def _price_electricity(self, draw_kw: Estimate, draw_formula: str) -> Estimate:
        """Return the electricity cost per month at the site's own price, else the country's price."""
        site, country = self._needs.placement.site, self._needs.organisation.country
        if site is not None and site.electricity_usd_per_kwh is not None:
            rate = site.electricity_usd_per_kwh
            price, source = within_factor(rate, 1.0, "USD/kWh"), STATED_BY_NEEDS
            fact = f"placement.site.electricity_usd_per_kwh: {format_exact(rate)} USD/kWh, {source}"
        else:
            price = self._catalog.electricity_usd_per_kwh(country)
            source = format_source(self._catalog.electricity_tariff(country))
            fact = f"electricity in {country}: {format_number(price.value)} USD/kWh, {source}"
        self._ledger.add_assumptions(
            f"this machine draws {format_number(draw_kw.value * 1000)} W within a factor of 2; its purchase costs "
            "nothing",
            "one machine and its power supply are available "
            f"{format_quantity(MACHINE_AVAILABILITY, 'share')} of the time "
            f"(low end: {format_share(MACHINE_AVAILABILITY_LOW)})",
        )
        return self._ledger.create_driver(
            multiply_estimates([draw_kw, price], USD).scaled(HOURS_PER_MONTH, unit=f"{USD}/month"),
            "this-machine.electricity",
            "assumed",
            "electricity of the machine per month if it is always on",
            formula=f"({draw_formula}) x {format_exact(HOURS_PER_MONTH)} h x price",
            facts=(fact, "power was not measured: a factor of 2 in both directions"),
        )


def _estimate_draw_kw(machine: MachineFacts, accelerators_w: float) -> tuple[Estimate, str]:
    """Return the draw of the busy machine and its formula."""
    formula = f"{format_exact(MACHINE_BASE_W)} W + {format_exact(CORE_W)} W x {machine.cores_usable} cores"
    formula += f" + {format_exact(accelerators_w)} W of accelerators" if accelerators_w else ""
    watts = MACHINE_BASE_W + CORE_W * machine.cores_usable + accelerators_w
    return within_factor(watts / 1000, POWER_FACTOR, "kW"), formula


def _find_download(
    one: LocalCandidates, own: LocalChoice | None, chooser: LocalModelChooser, memory: float
) -> LocalChoice | None:
    """Return the best file that a download would give, if its model is better than that of a file that keeps limits."""
    least = own.file.quality.share + QUALITY_MARGIN if own is not None and own.keeps_limits else -1.0
    return chooser.find_best(one.demand, tuple(file for file in one.others if file.quality.share > least), memory)


def _propose(workload: str, file: LocalFile, own: LocalChoice | None, limit: str) -> ModelProposal:
    instead, compared = "", ""
    if own is not None:
        instead, compared = own.file.label, f"; {own.file.label}: {own.file.quality_label}"
    reason = f"{file.quality_label}{compared}{limit}"
    return ModelProposal(workload=workload, artefact=file.artefact, instead=instead, reason=reason)
