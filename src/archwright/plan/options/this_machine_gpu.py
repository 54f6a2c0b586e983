"""Pools on the accelerators of this machine, for the option "this machine".

The best model that fits runs on the fewest equal accelerators that keep the limits, by the sizing of every accelerated
machine. Without an installed engine, or with accelerators that the catalog does not know, the processors serve.
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import Accelerator, ModelSpec
from archwright.contract.needs import Needs, Placement
from archwright.contract.number_format import format_number
from archwright.contract.plan import Artefact, MachineFacts, ModelProposal, Pool
from archwright.contract.record import as_dict, replace
from archwright.errors import CatalogError
from archwright.plan.accounting.fleet import Location
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.capacity.candidates import CandidateMachine, WorkloadTask
from archwright.plan.capacity.served_load import NonTextLoad, PooledLoad, build_served_load, build_text_load
from archwright.plan.demand.forecast import Demand
from archwright.plan.demand.model_quality import ModelQuality, rate_models
from archwright.plan.demand.model_selection import list_model_notes
from archwright.plan.options.local_models import QUALITY_MARGIN
from archwright.plan.options.option_builder import PoolWriter
from archwright.sizing.hardware.machine import Machine, SteadyCapacity
from archwright.sizing.inference.engine_options import WIDE_CACHE
from archwright.sizing.inference.serving_capacity import size_text_serving
from archwright.sizing.model.numeric_precision import WEIGHT_BITS, read_published_precision
from archwright.sizing.step_time.step_work import USABLE_MEMORY_SHARE

PLACEMENT: Placement = "this-machine"
# Engine options that the adapter of an engine here turns into its command line.
LAUNCHED_OPTIONS = ("chunk_tokens", "draft_tokens", "draft", "kv_format", "adapters")
# Weights of 16 bits can be loaded in these formats; a narrower format needs a repository that holds it.
LOADED_FORMATS = ("bf16", "fp16", "fp8")


class AcceleratorPool(NamedTuple):
    """A pool, its load for predictions, the draw of its accelerators in W, and notes on its model."""

    pool: Pool
    load: PooledLoad | NonTextLoad
    draw_w: float
    notes: tuple[str, ...]


class FittingModel(NamedTuple):
    """A model that keeps the limits on the free accelerators, its weights, and the engines that the load needs."""

    steady: SteadyCapacity
    weights: Artefact
    replicas: int


class AcceleratorPlanner:
    """Plans one pool after the other on the accelerators that are left.

    `notes` say why accelerators are not used; `proposals`: the better models that a download would give.
    """

    def __init__(self, needs: Needs, catalog: Catalog, ledger: PlanProvenance, machine: MachineFacts) -> None:
        self._catalog, self._engine, self._machine = catalog, catalog.default_engine, machine
        self._writer = PoolWriter(catalog, ledger, needs.placement.site)
        country = needs.organisation.country
        self._where = Location(PLACEMENT, PLACEMENT, country, country)
        self.notes, self.proposals = list[str](), list[ModelProposal]()
        found = defaultdict[str, list[tuple[int, Accelerator]]](list)
        for number, text in enumerate(machine.gpus):
            try:
                device = resolve_accelerator_report(text, catalog)
                found[device.id].append((number, device))
            except CatalogError:
                self.notes.append(f"{text} is not used: the catalog does not know it")
        if found and self._engine.id not in machine.programs:
            names = ", ".join(f"{len(alike)} x {name}" for name, alike in found.items())
            why = f"{self._engine.product} is not installed. Install it, then plan again: {self._engine.install}"
            self.notes.append(f"{names} not used: {why}")
            found.clear()
        # Only equal accelerators share a model, so the kind with the most memory serves.
        alike = max(found.values(), key=lambda alike: sum(one.memory_bytes for _, one in alike), default=[])
        self._device = min((one for _, one in alike), key=lambda one: one.memory_bytes, default=None)
        self._free = [number for number, _ in alike]

    def plan_pool(self, demand: Demand, models: Iterable[ModelSpec], *, download: bool) -> AcceleratorPool | None:
        """Return a pool of the best of `models` that keeps the limits, None if none does.

        Without `download` a folder of the home serves, and a better model of the hub is proposed.
        """
        if not self._free:
            return None
        ranked = sorted(models, key=lambda one: -self._qualities[one.id].share)
        best = own = self._find_best(demand, ranked, held=False)
        if best is not None and not download and best.weights.sha256 not in self._catalog.held:
            own = self._find_best(demand, ranked, held=True)
            self._propose(demand, best, own)
        return None if own is None else self._write_pool(demand, own)

    @cached_property
    def _qualities(self) -> dict[str, ModelQuality]:
        return rate_models(self._catalog.models.values())

    def _propose(self, demand: Demand, best: FittingModel, own: FittingModel | None) -> None:
        quality, instead = self._qualities[best.steady.model].share, own.steady.model if own is not None else ""
        if own is None or quality > self._qualities[instead].share + QUALITY_MARGIN:
            reason = (
                f"quality {format_number(quality)}, on {self._build_machine(best.replicas * best.steady.devices).id}"
            )
            name, weights = demand.workload.name, best.weights
            self.proposals.append(ModelProposal(workload=name, artefact=weights, instead=instead, reason=reason))

    def _find_best(self, demand: Demand, ranked: list[ModelSpec], *, held: bool) -> FittingModel | None:
        machine = self._build_machine(len(self._free))
        for model in ranked:
            weights = self._find_weights(model, held=held)
            if weights is None:
                continue
            load = build_text_load(demand)
            steady = size_text_serving(machine, model, load, self._catalog, remote_drafts=False)
            if steady is None or steady.misses or steady.requests_per_s.value <= 0:
                continue
            replicas = max(1, math.ceil(demand.peak_at_horizon / (steady.requests_per_s.value / steady.engines)))
            loadable = steady.quantisation in (weights.quantisation.lower(), *LOADED_FORMATS)
            if loadable and replicas <= steady.engines:
                return FittingModel(steady, weights, replicas)
        return None

    def _build_machine(self, count: int) -> Machine:
        name, facts = self._device.id if self._device is not None else "", self._machine
        return Machine(f"{count}x {name}", self._device, count, facts.cores_usable, float(facts.memory_bytes))

    def _write_pool(self, demand: Demand, chosen: FittingModel) -> AcceleratorPool:
        steady, weights, replicas = chosen
        used = replicas * steady.devices
        taken, self._free, machine = self._free[:used], self._free[used:], self._build_machine(used)
        task = WorkloadTask(demand.workload.name, demand.workload, demand, None)
        pool = self._writer.build_pool(task, CandidateMachine(self._where, machine), steady, replicas)
        options = as_dict(steady.options)
        if steady.options.kv_format == WIDE_CACHE:
            del options["kv_format"]
        settings: dict[str, int | float | str | bool] = {
            "tensor": steady.parallelism.tensor,
            "format": steady.quantisation,
            "gpu_memory_utilization": self._writer.find_memory_share(steady, self._device) or USABLE_MEMORY_SHARE,
            **{name: value for name, value in options.items() if name in LAUNCHED_OPTIONS and value},
            **self._list_parsers(steady.model),
        }
        engine = self._engine
        startup_s = engine.startup_s + weights.size_bytes / (engine.load_bytes_per_s or math.inf)
        # In the order of the tool that listed them, whose order CUDA does not keep by itself.
        visible = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(map(str, taken))}
        launch = replace(pool.launch, arguments=(), settings=settings, environment=visible, startup_s=startup_s)
        shape = replace(steady.parallelism, data=replicas)
        tdp = (machine.accelerator.tdp_w or 0.0) if machine.accelerator is not None else 0.0
        pool = replace(pool, launch=launch, artefact=weights, parallelism=shape)
        load = build_served_load(demand, steady, machine, self._catalog, replicas=1)
        notes = list_model_notes(demand.workload, self._catalog.models[steady.model], self._catalog)
        return AcceleratorPool(pool, load, used * tdp, notes)

    def _list_parsers(self, model: str) -> dict[str, str]:
        """Return the settings by which the engine takes reasoning and tool calls out of the model's text."""
        parsers = self._catalog.serving_parsers.get(model)
        if parsers is None:
            return {}
        names = {"reasoning_parser": parsers.reasoning_parser, "tool_parser": parsers.tool_parser}
        return {setting: name for setting, name in names.items() if name}

    def _find_weights(self, model: ModelSpec, *, held: bool) -> Artefact | None:
        """Return the folder of the model in the home, else, unless `held`, the repository of its maker."""
        for artefact in self._catalog.model_files.get(model.id, ()):
            if artefact.form == "safetensors":
                return artefact
        row, published = self._catalog.hub_models.get(model.id), read_published_precision(model).name
        size = round(model.parameters * WEIGHT_BITS[published] / 8)
        if held or row is None or size > self._machine.disk_free_bytes:
            return None
        return Artefact(
            name=model.id,
            model=model.id,
            package="",
            version="",
            member="",
            sha256="",
            size_bytes=size,
            quantisation=published,
            licence=model.licence,
            source=row.source,
            template_tokens=row.template_tokens,
            repository=row.repository,
            form="safetensors",
        )


def resolve_accelerator_report(text: str, catalog: Catalog) -> Accelerator:
    """Return the row for `NAME (N GiB)`, with at most the reported memory. Raises CatalogError AW-CAT-01."""
    name, _, reported = text.removesuffix(" GiB)").rpartition(" (") if text.endswith(" GiB)") else (text, "", "")
    device = catalog.accelerator(name)
    memory = round(float(reported) * 2**30) if reported else device.memory_bytes
    # A name without its form is told apart by its memory.
    if abs(device.memory_bytes - memory) > device.memory_bytes / 8:
        alike = (device, *catalog.accelerator_family(name))
        device = min(alike, key=lambda row: abs(row.memory_bytes - memory))
    return replace(device, memory_bytes=min(device.memory_bytes, memory))
