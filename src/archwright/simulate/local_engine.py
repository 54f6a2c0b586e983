"""The serving spec of an embedded engine on this machine, for a plan, a prediction or a model loaded at run time."""

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import EngineSpec, ModelSpec
from archwright.contract.plan import Artefact, LoadSpec, MachineFacts
from archwright.contract.record import replace
from archwright.simulate.serving_simulation import ServingSpec, build_roofline
from archwright.sizing.hardware.roofline import (
    EngineStep,
    build_machine_hardware,
    count_engine_threads,
    count_token_pairs,
)

# An engine looks for cancelled requests between two batches of a prompt. Measured: it is free after up to 1.6 batches,
# and a busy machine takes twice as long, so a batch of 0.6 s ends within 2 s. Batches of 8 read 30 % slower than of 16.
BATCH_SIZES = (512, 256, 128, 64, 32, 16)
BATCH_S = 0.6
# Threads wait at each barrier of libgomp by spinning; without a limit, one busy neighbour stalls them all.
SPIN_ENVIRONMENT = {"GOMP_SPINCOUNT": "1000"}
EngineSettings = dict[str, int | float | str | bool]


def find_embedded_engine(catalog: Catalog) -> EngineSpec:
    return next(engine for engine in catalog.engines.values() if engine.embedded and engine.quantisations)


def build_local_spec(
    model: ModelSpec, artefact: Artefact, machine: MachineFacts, catalog: Catalog, load: LoadSpec, context_tokens: int
) -> ServingSpec:
    """Return one replica of the embedded engine with `load.concurrency` slots of `context_tokens` each."""
    engine, quantisation = find_embedded_engine(catalog), artefact.quantisation
    row = catalog.quantisations.get(quantisation)  # None for a mixed or new format of a stored file
    spec = ServingSpec(
        model=model,
        engine=engine,
        efficiency=catalog.efficiency(engine.id, quantisation, machine.isa, model),
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
    )
    return replace(spec, batch_tokens=choose_batch_tokens(_predict_prefill_rate(spec)))


def choose_batch_tokens(prefill_tokens_per_s: float) -> int:
    """Return the largest batch of prompt tokens whose engine is still free within 2 s of a cancellation.

    Below 27 tokens/s no size is small enough on a busy machine, and the smallest one is used.
    """
    fitting = (size for size in BATCH_SIZES if size <= BATCH_S * prefill_tokens_per_s)
    return next(fitting, BATCH_SIZES[-1])


def build_engine_settings(spec: ServingSpec, artefact: Artefact, machine: MachineFacts) -> EngineSettings:
    """Return the launch settings of an embedded engine with this file."""
    settings: EngineSettings = {"threads": count_engine_threads(machine), "batch_tokens": spec.batch_tokens}
    return {**settings, "template_tools": True} if artefact.template_tools else settings


def _predict_prefill_rate(spec: ServingSpec) -> float:
    """Return the prompt tokens/s in the middle of the context, where half of it is attended."""
    tokens, before = BATCH_SIZES[0], spec.context_tokens // 2
    step = EngineStep(prompt_tokens=tokens, prompt_pairs=count_token_pairs(before, tokens))
    return tokens / build_roofline(spec).step_s(step)
