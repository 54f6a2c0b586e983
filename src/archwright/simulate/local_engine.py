"""The serving spec of an embedded engine on this machine, for a plan, a prediction or a model loaded at run time."""

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import EngineSpec, ModelSpec
from archwright.contract.plan import Artefact, LoadSpec, MachineFacts
from archwright.simulate.serving_simulation import ServingSpec
from archwright.sizing.hardware.roofline import build_machine_hardware

BATCH_TOKENS = 64


def find_embedded_engine(catalog: Catalog) -> EngineSpec:
    return next(engine for engine in catalog.engines.values() if engine.embedded and engine.quantisations)


def build_local_spec(
    model: ModelSpec, artefact: Artefact, machine: MachineFacts, catalog: Catalog, load: LoadSpec, context_tokens: int
) -> ServingSpec:
    """Return one replica of the embedded engine with `load.concurrency` slots of `context_tokens` each."""
    engine, quantisation = find_embedded_engine(catalog), artefact.quantisation
    row = catalog.quantisations.get(quantisation)  # None for a mixed or new format of a stored file
    return ServingSpec(
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
        batch_tokens=BATCH_TOKENS,
        template_tokens=artefact.template_tokens,
        shared_prefix_tokens=artefact.shared_prefix_tokens,
    )
