"""The serving spec of an embedded engine on this machine, for a plan, a prediction or a model loaded at run time.

Threads and prompt batches follow from measurements of the engine, if there are any, else from the cores and the probe.
"""

import math

from archwright.catalog.catalog import Catalog
from archwright.catalog.layers.efficiency_lookup import derive_for_engine
from archwright.catalog.layers.engine_measurements import RelatedMeasurement, find_related
from archwright.catalog.tables.records import Efficiency, ModelSpec
from archwright.contract.plan import Artefact, LoadSpec, MachineFacts
from archwright.contract.record import replace
from archwright.simulate.continuous_batching import StepTimer
from archwright.simulate.measured_speed import build_measured_speed
from archwright.simulate.serving_simulation import ServingSpec, build_roofline, build_step_times
from archwright.sizing.hardware.roofline import (
    EngineStep,
    build_machine_hardware,
    count_engine_threads,
    count_token_pairs,
)
from archwright.sizing.hardware.uncertainty import is_measured

# An engine looks for cancelled requests between two batches of a prompt. Measured: it is free after up to 1.6 batches,
# and a busy machine takes twice as long, so a batch of 0.6 s ends within 2 s. Batches of 8 read 30 % slower than of 16.
BATCH_SIZES = (512, 256, 128, 64, 32, 16)
BATCH_S = 0.6
# The slots to try, most first.
SLOT_COUNTS = (4, 2, 1)
# Threads wait at each barrier of libgomp by spinning; without a limit, one busy neighbour stalls them all.
SPIN_ENVIRONMENT = {"GOMP_SPINCOUNT": "1000"}
# The context at which the derived time per context token is read; it is proportional to the context.
CONTEXT_SAMPLE = 1024
# The prompt and the answer by which a measured and a derived speed are compared.
SAMPLE_TOKENS = 64
# The code of the engine's usual build, if no engine is installed that could tell.
USUAL_CODE = {"avx512": "avx2"}
EngineSettings = dict[str, int | float | str | bool]


def build_local_spec(
    model: ModelSpec, artefact: Artefact, machine: MachineFacts, catalog: Catalog, load: LoadSpec, context_tokens: int
) -> ServingSpec:
    """Return one replica of the embedded engine with `load.concurrency` slots of `context_tokens` each.

    It has the measured thread count that answers a mean request of a busy engine first at the present speed.
    """
    derived = _build_derived_spec(model, artefact, machine, catalog, load, context_tokens)
    chosen = derived
    if machine.engine is not None and not catalog.is_users_own(derived.efficiency):
        measured = _list_measured_specs(derived, artefact, machine, catalog)
        chosen = min(measured, key=_estimate_answer_s, default=None) or _correct_derived_spec(derived, machine, catalog)
    return replace(chosen, batch_tokens=choose_batch_tokens(_predict_prefill_rate(chosen)))


def _build_derived_spec(
    model: ModelSpec, artefact: Artefact, machine: MachineFacts, catalog: Catalog, load: LoadSpec, context_tokens: int
) -> ServingSpec:
    engine = catalog.embedded_engine
    quantisation = artefact.quantisation
    row = catalog.quantisations.get(quantisation)  # None for a mixed or new format of a stored file
    threads = count_engine_threads(machine)
    return ServingSpec(
        model=model,
        engine=engine,
        efficiency=_find_efficiency(engine.id, quantisation, machine, catalog, model),
        hardware=build_machine_hardware(machine),
        quantisation=quantisation,
        bits_per_weight=8 * artefact.size_bytes / model.parameters if row is None else row.bits_per_weight,
        file_bytes=artefact.size_bytes,
        load=load,
        slots=load.concurrency,
        context_tokens=context_tokens,
        replicas=1,
        batch_tokens=BATCH_SIZES[-1],
        template_tokens=artefact.template_tokens,
        shared_prefix_tokens=artefact.shared_prefix_tokens,
        threads=threads,
    )


def _find_efficiency(
    engine: str, quantisation: str, machine: MachineFacts, catalog: Catalog, model: ModelSpec
) -> Efficiency:
    """Return the row for the code that the engine runs here, which may use fewer features than the processor has."""
    isa = machine.engine.isa if machine.engine is not None else USUAL_CODE.get(machine.isa, machine.isa)
    row = catalog.efficiency(engine, quantisation, isa, model)
    if catalog.is_users_own(row):
        return row
    return derive_for_engine(row, machine.engine, count_engine_threads(machine))


def _list_measured_specs(
    derived: ServingSpec, artefact: Artefact, machine: MachineFacts, catalog: Catalog
) -> list[ServingSpec]:
    """Return the spec with each measured thread count that this machine has cores for."""
    assert machine.engine is not None
    step = EngineStep(answering=1, context_tokens=CONTEXT_SAMPLE)
    context_s = build_roofline(derived).attention_s(step) / CONTEXT_SAMPLE
    specs: list[ServingSpec] = []
    for related in find_related(catalog.engine_measurements, machine.engine, derived.model, artefact):
        threads = related.measurement.threads
        speed = build_measured_speed(related, derived.model, machine, catalog, context_s=context_s)
        if speed is not None and threads <= machine.cores_usable:
            specs.append(replace(derived, speed=speed, threads=threads))
    return specs


def _correct_derived_spec(derived: ServingSpec, machine: MachineFacts, catalog: Catalog) -> ServingSpec:
    """Return the derived spec, slowed by what the engine here reached in another format.

    The ratio of measured to derived times is the processor's part of the error; without it, every format that was not
    measured would look faster than the measured ones. Its band stays that of a derived row.
    """
    measurements = [kept for kept in catalog.engine_measurements if kept.report == machine.engine]
    if is_measured(derived.efficiency) or not measurements:
        return derived
    nearest = min(measurements, key=lambda kept: abs(math.log(kept.parameters / derived.model.parameters)))
    model = catalog.models.get(nearest.model)
    if model is None:
        return derived
    file = catalog.compute_model_file(model.id, nearest.quantisation)
    reference = _build_derived_spec(model, file, machine, catalog, derived.load, derived.context_tokens)
    speed = build_measured_speed(RelatedMeasurement(nearest, "format"), model, machine, catalog, context_s=0.0)
    if speed is None:
        return derived
    measured_s = _sum_sample_steps(build_step_times(replace(reference, speed=speed)))
    correction = measured_s / _sum_sample_steps(build_roofline(reference))
    return replace(derived, correction=correction, threads=nearest.threads)


def _sum_sample_steps(times: StepTimer) -> float:
    """Return the seconds of a short prompt and as many steps of an answer."""
    pairs = count_token_pairs(0, SAMPLE_TOKENS)
    prompt = EngineStep(prompt_tokens=SAMPLE_TOKENS, prompt_pairs=pairs, prompts_done=1)
    answer = EngineStep(answering=1, context_tokens=float(SAMPLE_TOKENS))
    return times.step_s(prompt) + SAMPLE_TOKENS * times.step_s(answer)


def _estimate_answer_s(spec: ServingSpec) -> float:
    """Return the seconds of a mean request's prompt and answer, with all slots answering."""
    times = build_step_times(spec)
    prompt_tokens = max(1, round(spec.load.input_tokens.mean))
    prompt_pairs = count_token_pairs(0, prompt_tokens)
    prompt_s = times.step_s(EngineStep(prompt_tokens=prompt_tokens, prompt_pairs=prompt_pairs, prompts_done=1))
    token_s = times.decode_s(spec.slots, prompt_tokens) / spec.slots
    return prompt_s + token_s * spec.load.output_tokens.mean


def choose_batch_tokens(prefill_tokens_per_s: float) -> int:
    """Return the largest batch of prompt tokens whose engine is still free within 2 s of a cancellation.

    Below 27 tokens/s no size is small enough on a busy machine, and the smallest one is used.
    """
    fitting = (size for size in BATCH_SIZES if size <= BATCH_S * prefill_tokens_per_s)
    return next(fitting, BATCH_SIZES[-1])


def build_engine_settings(spec: ServingSpec, artefact: Artefact) -> EngineSettings:
    """Return the launch settings of an embedded engine with this file."""
    settings: EngineSettings = {"threads": spec.threads, "batch_tokens": spec.batch_tokens}
    return {**settings, "template_tools": True} if artefact.template_tools else settings


def _predict_prefill_rate(spec: ServingSpec) -> float:
    """Return the prompt tokens/s in the middle of the context, where half of it is attended."""
    tokens = BATCH_SIZES[0]
    before = spec.context_tokens // 2
    step = EngineStep(prompt_tokens=tokens, prompt_pairs=count_token_pairs(before, tokens))
    return tokens / build_step_times(spec).step_s(step)
