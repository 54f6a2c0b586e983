"""The option "this machine": embedded engines on the local machine, whose only cost is electricity.

One pool per workload. An engine uses all usable cores except one (for the gateway and the control plane) and processes
prompts in small batches, so that a long prompt never blocks running streams. Slots: the largest of SLOT_COUNTS that
keeps every latency limit, else the largest that fits. A slot holds twice the 95th percentile of prompt plus answer,
because lengths are log-normal and long requests must not be refused.
"""

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import ModelSpec
from archwright.contract.estimate import Estimate, multiply_estimates, within_factor
from archwright.contract.needs import Needs
from archwright.contract.plan import Artefact, Launch, MachineFacts, Pool
from archwright.contract.record import replace
from archwright.errors import missing_extra
from archwright.plan.accounting.budget import USD, Findings, OptionDraft
from archwright.plan.accounting.cash_flow import make_recurring_flow
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.capacity.availability import MACHINE_AVAILABILITY, MACHINE_AVAILABILITY_LOW, RedundancyRequirement
from archwright.plan.capacity.served_load import LocalLoad, build_load_spec, count_context_tokens, default_max_tokens
from archwright.plan.capacity.service_levels import check_availability, find_latency_misses
from archwright.plan.demand.data_residency import collect_bounds, format_bounds, is_country_inside
from archwright.plan.demand.forecast import HOURS_PER_MONTH, Demand
from archwright.plan.demand.model_selection import format_licence_note, select_open_models
from archwright.plan.options.option_builder import BuiltOption
from archwright.plan.options.this_machine_gpu import AcceleratorPlanner, AcceleratorPool
from archwright.plan.violations import build_violation
from archwright.simulate.local_engine import BATCH_TOKENS, build_local_spec, find_embedded_engine
from archwright.simulate.peak_selection import select_representative_load
from archwright.simulate.serving_simulation import (
    WIDEST_BAND,
    WIDEST_TTFT_BAND,
    ServingSpec,
    estimate_disk,
    estimate_peak_memory,
    fits_hardware,
    replica_memory,
)
from archwright.sizing.hardware.power import carbon_kg
from archwright.sizing.hardware.roofline import (
    CORE_W,
    MACHINE_BASE_W,
    POWER_FACTOR,
    count_engine_threads,
)

PLACEMENT = "this-machine"
SPIN_ENVIRONMENT = {"GOMP_SPINCOUNT": "1000"}
SLOT_COUNTS = (4, 2, 1)


class ThisMachinePlanner:
    def __init__(self, needs: Needs, catalog: Catalog, ledger: PlanProvenance) -> None:
        self._needs, self._catalog, self._ledger = needs, catalog, ledger
        self._engine = find_embedded_engine(catalog)

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
        findings, served, pools = Findings(residency, [*accelerators.notes]), list[LocalLoad](), list[Pool]()
        fast = list[AcceleratorPool]()
        for demand in demands:
            found = accelerators.plan_pool(demand, select_open_models(demand, self._catalog).models)
            if found is not None:
                fast.append(found)
                pools.append(found.pool)
                findings.notes.extend(found.notes)
                check_availability(demand.workload.name, RedundancyRequirement(1, 0), demand.workload.slo, *findings)
                continue
            chosen = self._choose_model(demand, findings)
            if chosen is not None:
                spec = self._choose_slots(demand, chosen, machine, findings)
                served.append(LocalLoad(demand, spec))
                pools.append(self._build_pool(demand, spec, chosen[1], machine))
        self._check_machine_limits(served, machine, findings)
        draw, draw_formula = _estimate_draw_kw(machine, sum(one.draw_w for one in fast))
        power, months = self._price_electricity(draw, draw_formula), self._needs.budget.horizon_months
        paid = make_recurring_flow("electricity", "energy", power.value, months, (power.basis,))
        terms = (paid._replace(machines_of=tuple(pool.name for pool in pools)),)
        basis = self._ledger.create_basis(
            "this-machine.power",
            "assumed",
            "power of the busy machine, its energy per month if it is always on, and the carbon of that energy",
            formula=f"{draw_formula}, x {HOURS_PER_MONTH:g} h",
            facts=("power was not measured: a factor of 2 in both directions",),
        )
        draw, grams = replace(draw, basis=basis), self._catalog.grid_gco2_per_kwh(country)
        energy = draw.scaled(HOURS_PER_MONTH, unit="kWh")
        draft = draft._replace(
            regions=() if outside else (country,),
            misses=tuple(findings.misses),
            terms=terms if pools and len(pools) == len(demands) else None,
            pools=tuple(pools),
            models={pool.name: pool.model for pool in pools},
            notes=tuple(findings.notes),
            power_kw=draw,
            energy_kwh_per_month=energy,
            carbon_kg_per_month=None if grams is None else replace(carbon_kg(energy, grams), basis=basis),
        )
        return BuiltOption(draft, served=(*served, *(one.load for one in fast)))

    def _choose_model(self, demand: Demand, findings: Findings) -> tuple[ModelSpec, Artefact] | None:
        """Choose the smallest model that passes and has a file for the embedded engine."""
        found = select_open_models(demand, self._catalog)
        findings.misses.extend(found.misses)
        findings.notes.extend(found.notes)
        for model in found.models:
            artefact = self._catalog.artefacts.get(model.id)
            if artefact is not None and artefact.quantisation in self._engine.quantisations:
                findings.notes.extend(format_licence_note(model))
                return model, artefact
        if found.models:
            limit = ", ".join(sorted(self._catalog.artefacts))
            findings.misses.append(build_violation(f"{demand.workload.name}.model", "no file to fetch", limit))
        return None

    def _choose_slots(
        self, demand: Demand, chosen: tuple[ModelSpec, Artefact], machine: MachineFacts, findings: Findings
    ) -> ServingSpec:
        specs = [self._build_spec(demand, chosen, machine, slots) for slots in SLOT_COUNTS]
        fitting = [spec for spec in specs if fits_hardware(spec)]
        if not fitting:
            name, need = demand.workload.name, replica_memory(specs[-1]).total
            findings.misses.append(build_violation(f"{name}.memory_bytes", need, float(machine.memory_bytes)))
        tried = fitting or specs[-1:]
        spec = next((spec for spec in tried if not find_latency_misses(spec, demand.workload.slo)), tried[0])
        spec = replace(spec, load=select_representative_load(spec))
        self._ledger.add_assumptions(
            f"{demand.workload.name}: predictions and `bench` use a typical one of many random peak windows. "
            "It depends smoothly on the machine's speed, and other windows may differ more. Simulated intervals are "
            f"limited to a factor of {WIDEST_BAND:g} ({WIDEST_TTFT_BAND:g} for TTFT) in both directions. A machine "
            "with unsteady speed is therefore reported as worse than predicted"
        )
        findings.misses.extend(find_latency_misses(spec, demand.workload.slo))
        return spec

    def _build_spec(
        self, demand: Demand, chosen: tuple[ModelSpec, Artefact], machine: MachineFacts, slots: int
    ) -> ServingSpec:
        model, artefact = chosen
        load = build_load_spec(demand, model.id, slots)
        return build_local_spec(model, artefact, machine, self._catalog, load, count_context_tokens(demand, model))

    def _build_pool(self, demand: Demand, spec: ServingSpec, artefact: Artefact, machine: MachineFacts) -> Pool:
        return Pool(
            name=demand.workload.name,
            model=spec.model.id,
            workloads=(demand.workload.name,),
            placement="this-machine",
            provider=PLACEMENT,
            region=self._needs.organisation.country,
            country=site.country if (site := self._needs.placement.site) is not None else "",
            machine=f"{machine.cores_usable} cores, {machine.memory_bytes / 2**30:.1f} GiB",
            accelerator="",
            accelerator_count=0,
            replicas=1,
            slots=spec.slots,
            context_tokens=spec.context_tokens,
            default_max_tokens=default_max_tokens(demand.output_tokens),
            quantisation=spec.quantisation,
            launch=Launch(
                engine=self._engine.id,
                settings={"threads": count_engine_threads(machine), "batch_tokens": BATCH_TOKENS},
                environment=SPIN_ENVIRONMENT,
                health_path=self._engine.health_path,
                metrics=self._engine.metrics,
            ),
            artefact=artefact,
        )

    def _check_machine_limits(self, served: list[LocalLoad], machine: MachineFacts, findings: Findings) -> None:
        """Check availability, and memory and disk of all pools together."""
        for workload in (one.demand.workload for one in served):
            check_availability(workload.name, RedundancyRequirement(1, 0), workload.slo, *findings)
        memory = sum(estimate_peak_memory(one.spec, "").value for one in served)
        if len(served) > 1 and memory > machine.memory_bytes:
            findings.misses.append(build_violation("memory_bytes", memory, float(machine.memory_bytes)))
        files = sum(estimate_disk(one.spec, "").value for one in served)
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
            price, fact = within_factor(rate, 1.0, "USD/kWh"), f"placement.site.electricity_usd_per_kwh: {rate:g}"
        else:
            price = self._catalog.electricity_usd_per_kwh(country)
            fact = f"electricity in {country}: {price.value:.3g} USD/kWh"
        self._ledger.add_assumptions(
            f"this machine draws {draw_kw.value * 1000:.0f} W within a factor of 2; its purchase costs nothing",
            f"one machine and its power supply are available {MACHINE_AVAILABILITY:.1%} of the time "
            f"(low end: {MACHINE_AVAILABILITY_LOW:.0%})",
        )
        return self._ledger.create_driver(
            multiply_estimates([draw_kw, price], USD).scaled(HOURS_PER_MONTH, unit=f"{USD}/month"),
            "this-machine.electricity",
            "assumed",
            "electricity of the machine per month if it is always on",
            formula=f"({draw_formula}) x {HOURS_PER_MONTH:g} h x price",
            facts=(fact, "power was not measured: a factor of 2 in both directions"),
        )


def _estimate_draw_kw(machine: MachineFacts, accelerators_w: float) -> tuple[Estimate, str]:
    """Return the draw of the busy machine and its formula."""
    formula = f"{MACHINE_BASE_W:g} W + {CORE_W:g} W x {machine.cores_usable} cores"
    formula += f" + {accelerators_w:g} W of accelerators" if accelerators_w else ""
    watts = MACHINE_BASE_W + CORE_W * machine.cores_usable + accelerators_w
    return within_factor(watts / 1000, POWER_FACTOR, "kW"), formula
