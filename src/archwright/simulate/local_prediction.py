"""`predict serving MODEL --on this-machine`: any open model in the embedded engine here, before a download."""

import math

from archwright.catalog.catalog import Catalog
from archwright.contract.estimate import Estimate, sum_estimates, within_factor
from archwright.contract.plan import Artefact, MachineFacts
from archwright.contract.record import replace
from archwright.contract.sizing_prediction import SizingPrediction
from archwright.errors import UsageError, argument_error
from archwright.simulate.continuous_batching import SimulatedRequest
from archwright.simulate.local_engine import SLOT_COUNTS, build_local_spec
from archwright.simulate.rate_prediction import build_stated_load
from archwright.simulate.serving_simulation import (
    ServingPrediction,
    ServingSpec,
    build_batching,
    fits_hardware,
    list_slowdowns,
    predict_serving,
    replica_memory,
)
from archwright.sizing.inference.engine_instance import build_fixed_lengths
from archwright.sizing.model.engine_memory import USABLE_SHARE
from archwright.sizing.stated_query import StatedLoad

THIS_MACHINE = "this-machine"
CONTEXT_STEP = 256
LEAST_ANSWER_TOKENS = 2
# A closed loop lasts until the slow end of the band has answered this many requests per slot.
ROUNDS = 3
# A size that follows from bits per weight: small models keep a larger share of their weights in wider formats.
COMPUTED_SIZE = 1.08
GIB = 2**30
DEFINITIONS = {
    "ttft_p50_s": "request to first token, gateway included",
    "ttft_p95_s": "the same at the 95th percentile",
    "tpot_p50_s": "time between tokens of an answer",
    "tpot_p95_s": "the same at the 95th percentile",
    "tokens_per_s": "output tokens of all requests in flight",
    "memory_bytes": "peak of the engine and of the platform's own processes",
    "cold_start_s": "`up` to ready; the high end reads the file from the disk",
    "download_bytes": "size of the model file",
}


def predict_on_this_machine(
    artefact: Artefact, machine: MachineFacts, load: StatedLoad, *, catalog: Catalog
) -> SizingPrediction:
    """Predict speed, memory, cold start and disk of a model file in the embedded engine.

    Raises UsageError AW-USE-21 if the memory or the context is too small.
    """
    spec = choose_slots(artefact, machine, load, catalog=catalog)
    if load.requests_per_second is None:
        spec = replace(spec, load=replace(spec.load, closed_s=_predict_closed_seconds(spec, load)))
    simulated = predict_serving(spec)
    estimates = _list_estimates(simulated, spec, artefact)
    basis = simulated.bases[0]
    sources = (*basis.facts, f"model: {spec.model.source}", f"file: {artefact.source}")
    used_gib = replica_memory(spec).total / GIB
    usable_gib = machine.memory_bytes * USABLE_SHARE / GIB
    slots = f"slots: {spec.slots} of {spec.context_tokens:,} tokens, threads: {spec.threads}"
    memory = f"fits: {used_gib:.3g} of {usable_gib:.3g} GiB"
    return SizingPrediction(
        model=f"{spec.model.id} {spec.quantisation}",
        accelerator=THIS_MACHINE,
        devices=1,
        stratum=spec.stratum,
        estimates=estimates,
        definitions={name: DEFINITIONS[name] for name in estimates},
        formula=basis.formula,
        sources=sources,
        weak=_list_weak_points(artefact, machine, spec),
        assumed=_list_assumptions(artefact, catalog),
        layout=f"{slots}, {memory}",
    )


def _list_estimates(simulated: ServingPrediction, spec: ServingSpec, artefact: Artefact) -> dict[str, Estimate]:
    """Return the figures that the load defines: one request in flight has no percentiles, a rate no tokens/s."""
    is_closed = not spec.load.requests_per_second
    has_percentiles = not is_closed or spec.load.concurrency > 1
    estimates = {"ttft_p50_s": simulated.ttft_p50_s}
    if has_percentiles:
        estimates["ttft_p95_s"] = simulated.ttft_p95_s
    estimates["tpot_p50_s"] = simulated.tpot_p50_s
    if has_percentiles:
        estimates["tpot_p95_s"] = simulated.tpot_p95_s
    if is_closed:
        estimates["tokens_per_s"] = simulated.tokens_per_s

    size_bytes = float(artefact.size_bytes)
    file_size = within_factor(size_bytes, 1.0 if artefact.sha256 else COMPUTED_SIZE, "bytes")
    uncertainty = Estimate(value=0.0, low=file_size.low - size_bytes, high=file_size.high - size_bytes, unit="bytes")
    estimates["memory_bytes"] = sum_estimates([simulated.peak_memory_bytes, uncertainty], "bytes")
    estimates["cold_start_s"] = simulated.startup_s
    estimates["download_bytes"] = file_size
    return estimates


def build_spec(
    artefact: Artefact, machine: MachineFacts, load: StatedLoad, *, slots: int, catalog: Catalog
) -> ServingSpec:
    """Return the embedded engine with `slots` slots, each for one request of `load` and the chat template."""
    answer_tokens = max(load.answer_tokens, LEAST_ANSWER_TOKENS)
    lengths = build_fixed_lengths(float(load.prompt_tokens), float(answer_tokens))
    peak = build_stated_load(artefact.model, lengths, load.requests_per_second or 0.0, slots=slots)
    needed_tokens = artefact.template_tokens + load.prompt_tokens + load.answer_tokens
    context_tokens = CONTEXT_STEP * math.ceil(needed_tokens / CONTEXT_STEP)
    return build_local_spec(catalog.models[artefact.model], artefact, machine, catalog, peak, context_tokens)


def choose_slots(artefact: Artefact, machine: MachineFacts, load: StatedLoad, *, catalog: Catalog) -> ServingSpec:
    """Return the spec with a slot for each request in flight of `load`, or with the most that fit.

    Raises UsageError AW-USE-21 if not even the least number of slots fits, or a request exceeds the context.
    """
    longest = catalog.models[artefact.model].context_tokens
    request_tokens = load.prompt_tokens + load.answer_tokens
    if request_tokens > longest:
        message = f"a request of {request_tokens:,} tokens exceeds the context of {artefact.model}"
        raise argument_error("AW-USE-21", message, "load", f"use at most {longest:,} prompt and answer tokens")

    counts = SLOT_COUNTS if load.in_flight is None else (load.in_flight,)
    for slots in counts:
        spec = build_spec(artefact, machine, load, slots=slots, catalog=catalog)
        if fits_hardware(spec):
            return spec
    raise _memory_error(spec, artefact, machine, load=load, catalog=catalog)


def _memory_error(
    smallest: ServingSpec, artefact: Artefact, machine: MachineFacts, *, load: StatedLoad, catalog: Catalog
) -> UsageError:
    """Return the error that names the largest quantisation which fits with the slots of `smallest`."""
    fitting: list[Artefact] = []
    for quantisation in smallest.engine.quantisations:
        file = catalog.compute_model_file(artefact.model, quantisation)
        if fits_hardware(build_spec(file, machine, load, slots=smallest.slots, catalog=catalog)):
            fitting.append(file)
    hint = "choose a smaller model: archwright plan --download names the best one that fits"
    if fitting:
        largest = max(fitting, key=lambda file: file.size_bytes)
        hint = f"choose a smaller quantisation, such as {largest.model}:{largest.quantisation}, or shorter requests"

    needed_gib = replica_memory(smallest).total / GIB
    usable_gib = machine.memory_bytes * USABLE_SHARE / GIB
    cache = f"{smallest.slots} x {smallest.context_tokens:,} tokens of cache"
    need = f"{artefact.model} in {artefact.quantisation} needs {needed_gib:.3g} GiB with {cache}"
    message = f"{need}; an engine may use {usable_gib:.3g} GiB of this machine"
    return argument_error("AW-USE-21", message, "model", hint)


def _predict_closed_seconds(spec: ServingSpec, load: StatedLoad) -> float:
    """Return the length of ROUNDS rounds of answers at the slow end of the band."""
    slowest = list_slowdowns(spec, 2)[-1]
    request = SimulatedRequest(0.0, load.prompt_tokens, 0, max(load.answer_tokens, LEAST_ANSWER_TOKENS))
    outcomes = build_batching(spec, slowest).run([request] * spec.load.concurrency)
    return ROUNDS * max(outcome.last_s for outcome in outcomes)


def _list_weak_points(artefact: Artefact, machine: MachineFacts, spec: ServingSpec) -> tuple[str, ...]:
    notes: list[str] = []
    if spec.speed is None and not spec.is_measured:
        row = spec.efficiency
        notes.append(f"{row.engine} was not measured with {row.quantisation} here: the intervals are wide")
    elif spec.speed is not None and not spec.is_measured:
        notes.append(f"the speed was {spec.speed.stratum}, so the intervals are wide")
    if machine.is_busy:
        notes.append(f"other processes used {machine.busy_share:.0%} of the processor during the probe")
    if spec.speed is None and spec.threads > 1:
        notes.append("the probe has one thread; the rates of more threads are scaled")
    if not artefact.sha256:
        notes.append("the size of the file is computed from its parameters and bits per weight")
        if artefact.size_bytes > machine.disk_free_bytes:
            notes.append(f"the disk has only {machine.disk_free_bytes / GIB:.3g} GiB free for the file")
    return tuple(notes)


def _list_assumptions(artefact: Artefact, catalog: Catalog) -> tuple[str, ...]:
    if artefact.sha256 in catalog.held:
        return ("the file is in this home: nothing is downloaded",)
    return (f"a file of the model in {artefact.quantisation} is available",)
