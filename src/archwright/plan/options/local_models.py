"""The model of a workload on this machine: the best file that fits memory and disk and keeps the latency limits.

Order of the files: quality of the model (plan/demand/model_quality.py), the larger quantisation, the smaller file.
A model that the needs do not name leaves OTHERS_SHARE of the memory to other programs.
Design: files are compared at the machine's speed without other programs, so that a busy moment changes no choice; the
spec of the chosen file has the present speed. A file is simulated only if its memory fits, one idle request is fast
enough and the peak can be sustained. A model whose smallest file fails is not tried again. If none keeps the limits,
the fastest file is the choice, with its misses. A file to fetch is chosen (`download`) or proposed only if its model is
better than that of the best file of the home by QUALITY_MARGIN.
"""

from collections.abc import Iterator
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import EngineSpec, ModelSpec
from archwright.contract.needs import SLO
from archwright.contract.number_format import format_duration, format_number, format_quantity
from archwright.contract.plan import Artefact, MachineFacts
from archwright.contract.record import replace
from archwright.plan.capacity.served_load import build_load_spec, count_context_tokens
from archwright.plan.capacity.service_levels import find_latency_misses
from archwright.plan.demand.forecast import Demand
from archwright.plan.demand.model_quality import BENCHMARKS, ModelQuality, rate_models
from archwright.simulate.local_engine import SLOT_COUNTS, build_local_spec
from archwright.simulate.peak_selection import select_representative_load
from archwright.simulate.serving_simulation import ServingSpec, build_step_times, replica_memory
from archwright.sizing.hardware.roofline import EngineStep, count_token_pairs
from archwright.sizing.model.engine_memory import USABLE_SHARE

# Memory for the programs of the person at this machine, beside the share that no engine may use. Assumed.
OTHERS_SHARE = 0.2
# The closed loop lasts for about this many answers of an engine, within these seconds: a slow engine needs longer.
CLOSED_ANSWERS, LEAST_CLOSED_S, MOST_CLOSED_S = 2.0, 12.0, 90.0
# A download is proposed only if the quality rises by more than what the scores can tell apart.
QUALITY_MARGIN = 0.03


class LocalFile(NamedTuple):
    """A model file for the embedded engine; `here`: the home holds it."""

    model: ModelSpec
    artefact: Artefact
    bits_per_weight: float
    quality: ModelQuality
    here: bool

    @property
    def label(self) -> str:
        return f"{self.model.id} {self.artefact.quantisation}"

    @property
    def quality_label(self) -> str:
        scores = f"{self.quality.scores} of {len(BENCHMARKS)} scores" if self.quality.scores else "its size, unscored"
        return f"quality {format_number(self.quality.share)} from {scores}"


class LocalChoice(NamedTuple):
    """A file with its slots and load; `keeps_limits`: if no other program runs."""

    file: LocalFile
    spec: ServingSpec
    keeps_limits: bool


class LocalModelChooser:
    def __init__(self, catalog: Catalog, engine: EngineSpec, machine: MachineFacts) -> None:
        self._catalog, self._engine, self._machine, self._quiet = catalog, engine, machine, machine.without_others()
        self._qualities = rate_models(catalog.models.values())

    def list_files(self, models: tuple[ModelSpec, ...], named: str | None = None) -> tuple[LocalFile, ...]:
        """Return the files of `models` that the engine runs, best first; `named`: a name of the home picks its file."""
        catalog = self._catalog
        found = []
        for model in models:
            for one in catalog.model_files.get(model.id, ()):
                if one.form == "gguf" and one.quantisation in self._engine.quantisations:
                    bits = catalog.quantisations[one.quantisation].bits_per_weight
                    found.append(LocalFile(model, one, bits, self._qualities[model.id], one.sha256 in catalog.held))
        found.sort(key=lambda one: (-one.quality.share, -one.bits_per_weight, one.artefact.size_bytes))
        return tuple(one for one in found if one.artefact.name == named) or tuple(found)

    def least_memory(self, demand: Demand, files: tuple[LocalFile, ...]) -> float:
        """Return the bytes of the smallest engine, 0 without a file."""
        return min((replica_memory(self._build_spec(demand, one, 1)).total for one in files), default=0.0)

    def usable_memory(self, *, named: bool) -> float:
        """Return the bytes for engines, if the needs name every model, else less."""
        return self._machine.memory_bytes * (USABLE_SHARE if named else USABLE_SHARE - OTHERS_SHARE)

    def choose(self, demand: Demand, files: tuple[LocalFile, ...], memory: float) -> LocalChoice | None:
        """Return the best file that keeps every limit within `memory` bytes, else the fastest that fits, else None."""
        if best := self.find_best(demand, files, memory):
            return best
        fitting = [(one, specs) for one in files if (specs := self._list_fitting(demand, one, memory))]
        if not fitting:
            return None
        fastest, specs = min(fitting, key=lambda pair: _IdleEngine(pair[1][-1]).token_s)
        return LocalChoice(fastest, self._use_present_speed(fastest, specs[0]), keeps_limits=False)

    def find_best(self, demand: Demand, files: tuple[LocalFile, ...], memory: float) -> LocalChoice | None:
        """Return the first file that keeps every limit, also in a typical peak window."""
        for file, spec in self.list_passing(demand, files, memory):
            typical = _use_typical_load(spec)
            if not find_latency_misses(typical, demand.workload.slo):
                return LocalChoice(file, self._use_present_speed(file, typical), keeps_limits=True)
        return None

    def explain_limit(self, demand: Demand, files: tuple[LocalFile, ...], chosen: LocalFile, memory: float) -> str:
        """Return why the smallest file of a better model does not serve; empty if no model is better."""
        least = chosen.quality.share
        better = [one for one in files if one.quality.share > least + (0.0 if one.here else QUALITY_MARGIN)]
        if not better:
            return ""
        rival = min(better, key=lambda one: one.artefact.size_bytes)
        spec = self._build_spec(demand, rival, 1)
        needed, begin = replica_memory(spec).total, f"; better: {rival.label} ({rival.quality_label})"
        if needed > memory:
            free = format_quantity(memory, "B")
            return f"{begin}, which needs {format_quantity(needed, 'B')} of memory, and {free} are free for it"
        misses = find_latency_misses(spec, demand.workload.slo)
        limits = ", ".join(f"{one.constraint} {_format_s(one.value)}, limit {_format_s(one.limit)}" for one in misses)
        return f"{begin}, which is too slow: {limits or 'the peak has more requests than one slot answers'}"

    def list_passing(
        self, demand: Demand, files: tuple[LocalFile, ...], memory: float
    ) -> Iterator[tuple[LocalFile, ServingSpec]]:
        """Yield the files that keep every limit at the predicted speed, best first, each with the most slots."""
        smallest = {one.model.id: one for one in sorted(files, key=lambda one: -one.artefact.size_bytes)}
        passing = dict[str, ServingSpec | None]()
        for file in files:
            name, least = file.model.id, smallest[file.model.id]
            if name not in passing:
                passing[name] = self._try_file(demand, least, memory)
            spec = passing[name]
            if spec is not None and file is not least:
                spec = self._try_file(demand, file, memory)
            if spec is not None:
                yield file, spec

    def _try_file(self, demand: Demand, file: LocalFile, memory: float) -> ServingSpec | None:
        slo, specs = demand.workload.slo, self._list_fitting(demand, file, memory)
        if not specs or not _IdleEngine(specs[0]).may_keep(slo, demand.peak_at_horizon):
            return None
        return next((spec for spec in specs if not find_latency_misses(spec, slo)), None)

    def _list_fitting(self, demand: Demand, file: LocalFile, memory: float) -> list[ServingSpec]:
        """Return the specs of SLOT_COUNTS that fit `memory` bytes."""
        specs = [self._build_spec(demand, file, slots) for slots in SLOT_COUNTS]
        return [spec for spec in specs if replica_memory(spec).total <= memory]

    def _build_spec(self, demand: Demand, file: LocalFile, slots: int) -> ServingSpec:
        load, context = build_load_spec(demand, file.model.id, slots), count_context_tokens(demand, file.model)
        return build_local_spec(file.model, file.artefact, self._quiet, self._catalog, load, context)

    def _use_present_speed(self, file: LocalFile, spec: ServingSpec) -> ServingSpec:
        now, load = self._machine, spec.load
        present = build_local_spec(file.model, file.artefact, now, self._catalog, load, spec.context_tokens)
        return _use_typical_load(present)


class _IdleEngine:
    """Seconds of a mean prompt and of a token of one request, and of an answer when all slots are busy: bounds."""

    def __init__(self, spec: ServingSpec) -> None:
        times = build_step_times(spec)
        prompt = max(1, round(spec.load.input_tokens.mean))
        step = EngineStep(prompt_tokens=prompt, prompt_pairs=count_token_pairs(0, prompt), prompts_done=1)
        self.prompt_s, self.token_s = times.step_s(step), times.decode_s(1, prompt)
        busy_s = times.decode_s(spec.slots, prompt) * spec.load.output_tokens.mean
        self.answer_s, self.answers_s = self.prompt_s + busy_s / spec.slots, self.prompt_s * spec.slots + busy_s

    def may_keep(self, slo: SLO, rate: float) -> bool:
        first = slo.ttft_p95_s is None or self.prompt_s <= slo.ttft_p95_s
        return first and (slo.tpot_p95_s is None or self.token_s <= slo.tpot_p95_s) and rate * self.answer_s <= 1


def _format_s(seconds: float | str | None) -> str:
    return format_duration(float(seconds or 0.0))


def _use_typical_load(spec: ServingSpec) -> ServingSpec:
    """Return the spec with a typical peak window, and a closed loop long enough for some answers."""
    closed_s = min(MOST_CLOSED_S, max(LEAST_CLOSED_S, CLOSED_ANSWERS * _IdleEngine(spec).answers_s))
    longer = replace(spec, load=replace(spec.load, closed_s=float(round(closed_s))))
    return replace(longer, load=select_representative_load(longer))
