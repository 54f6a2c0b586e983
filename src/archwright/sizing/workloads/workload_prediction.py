"""Sizing of workloads other than text: `predict embedding`, `predict image`, `predict table`, `predict data`."""

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.name_resolution import normalise_name, unknown_name_error
from archwright.catalog.tables.records import ModelSpec
from archwright.contract.estimate import Estimate
from archwright.contract.needs import SLO, TokenLength
from archwright.contract.sizing_prediction import SizingPrediction
from archwright.errors import argument_error
from archwright.sizing.hardware.machine import BatchWork, Machine, SteadyCapacity
from archwright.sizing.workloads.data_processing import size_data_processing
from archwright.sizing.workloads.embedding import size_embedding_serving
from archwright.sizing.workloads.tabular import size_tabular_serving
from archwright.sizing.workloads.vision import size_image_serving

WORKLOAD = "predict"
_DEFINITIONS = {
    "requests_per_s": "the highest load of one machine within the latency limit",
    "latency_p95_s": "from arrival to response at that load",
    "machine_hours": "hours of one machine for all of the data",
}


def find_embedder(name: str, catalog: Catalog) -> ModelSpec:
    """Return the embedding model of this name, with or without its organisation. Raises CatalogError AW-CAT-01."""
    normalised_name = normalise_name(name.rsplit("/", 1)[-1])
    for model_id, row in catalog.embedders.items():
        if normalise_name(model_id) == normalised_name:
            return row
    raise unknown_name_error("embedding model", name, catalog.embedders)


def predict_embedding(
    machine: Machine, model: ModelSpec, tokens: TokenLength, *, slo: SLO, catalog: Catalog
) -> SizingPrediction:
    """Predict the texts of `tokens` per second that a machine embeds.

    Raises UsageError AW-USE-21 if the model does not fit.
    """
    capacity = size_embedding_serving(machine, model, WORKLOAD, tokens, slo, catalog)
    if capacity is None:
        message = f"{model.id} does not fit {machine.id}"
        raise argument_error("AW-USE-21", message, "on", "ask for a device with more memory")
    return _build_steady_prediction(capacity, machine)


def predict_image(
    machine: Machine, *, pixels: float, parameters: float, slo: SLO, catalog: Catalog
) -> SizingPrediction:
    """Predict the images per second that a machine classifies with a network of `parameters` parameters."""
    capacity = size_image_serving(machine, WORKLOAD, pixels, parameters, slo, catalog)
    return _build_steady_prediction(capacity, machine)


def predict_table(machine: Machine, *, features: int, slo: SLO, catalog: Catalog) -> SizingPrediction:
    """Predict the rows per second that the cores of a machine predict by boosted trees."""
    capacity = size_tabular_serving(machine, WORKLOAD, features, slo, catalog)
    return _build_steady_prediction(capacity, machine)


def predict_data(machine: Machine, *, gib: float, catalog: Catalog) -> SizingPrediction:
    """Predict the hours that the cores of a machine take to ingest and refine `gib` GiB."""
    work = size_data_processing(machine, gib, WORKLOAD, catalog)
    return _build_prediction(work, machine, {"machine_hours": work.machine_hours})


def _build_steady_prediction(capacity: SteadyCapacity, machine: Machine) -> SizingPrediction:
    estimates = {"requests_per_s": capacity.requests_per_s, "latency_p95_s": capacity.latency_p95_s}
    weak = tuple(
        f"an idle machine takes {miss.value:.3g} s; the figures ignore the latency limit" for miss in capacity.misses
    )
    return _build_prediction(capacity, machine, estimates, weak=weak)


def _build_prediction(
    sized: SteadyCapacity | BatchWork, machine: Machine, estimates: dict[str, Estimate], *, weak: tuple[str, ...] = ()
) -> SizingPrediction:
    (basis,) = sized.bases
    device = machine.accelerator
    return SizingPrediction(
        model=sized.model,
        accelerator="vCPU" if device is None else device.id,
        devices=machine.cores if device is None else machine.accelerator_count,
        stratum=basis.stratum,
        estimates=estimates,
        definitions={name: _DEFINITIONS[name] for name in estimates},
        formula=basis.formula,
        sources=basis.facts,
        weak=weak,
        assumed=sized.assumptions,
    )
