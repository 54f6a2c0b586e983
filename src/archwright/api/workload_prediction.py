"""Sizing of workloads other than text: `predict embedding`, `predict image`, `predict table`, `predict data`."""

import re

from archwright import settings
from archwright.api.argument_errors import argument_error
from archwright.catalog.catalog import Catalog
from archwright.catalog.load import load_catalog
from archwright.catalog.tables import name_resolution
from archwright.contract.estimate import Estimate
from archwright.contract.needs import SLO, TokenLength
from archwright.contract.sizing_prediction import SizingPrediction
from archwright.home import locate_home
from archwright.sizing.hardware.machine import BatchWork, Machine, SteadyCapacity
from archwright.sizing.workloads.data_processing import size_data_processing
from archwright.sizing.workloads.embedding import size_embedding_serving
from archwright.sizing.workloads.tabular import size_tabular_serving
from archwright.sizing.workloads.vision import size_image_serving

_HOST = re.compile(r"^\s*(\d{1,5})\s*x?\s*v?cpus?\s*$", re.IGNORECASE)
_LENGTHS = re.compile(r"^\s*(\d{1,7})(?:\s*\.\.\s*(\d{1,7}))?\s*$")
# The memory is not an argument: this is enough for any of these models. The threads feed the device.
_RAM_BYTES, _THREADS = 256 * 2.0**30, 16
_DEFINITIONS = {
    "requests_per_s": "the highest load of one machine within the latency limit",
    "latency_p95_s": "from arrival to response at that load",
    "machine_hours": "hours of one machine for all of the data",
}


def predict_embedding(
    model: str, *, on: str, tokens: str = "500", latency_p95_s: float | None = None
) -> SizingPrediction:
    """Predict the texts per second that `on` ("1x NAME", or "16 vCPU") embeds with `model`.

    `tokens`: tokens of a text (mean, or mean..p95). Raises CatalogError AW-CAT-01 (unknown name), UsageError AW-USE-20
    (not a length), AW-USE-21 (the model does not fit).
    """
    catalog, length = _load_home_catalog(), _LENGTHS.match(tokens)
    if length is None or not int(length[1]):
        hint = "write for example 500, or 500..1500"
        raise argument_error("AW-USE-20", f"{tokens!r} is not a length", "tokens", hint)
    known = {name_resolution.normalise_name(name): row for name, row in catalog.embedders.items()}
    row = known.get(name_resolution.normalise_name(model.rsplit("/", 1)[-1]))
    if row is None:
        raise name_resolution.unknown_name_error("embedding model", model, catalog.embedders)
    machine, mean = _parse_machine(on, catalog), float(length[1])
    lengths = TokenLength(mean=mean, p95=max(mean, float(length[2] or mean)))
    found = size_embedding_serving(machine, row, "predict", lengths, SLO(latency_p95_s=latency_p95_s), catalog)
    if found is None:
        raise argument_error("AW-USE-21", f"{model} does not fit {on}", "on", "ask for a device with more memory")
    return _build_steady_prediction(found, machine)


def predict_image(on: str, *, pixels: float, parameters: float, latency_p95_s: float | None = None) -> SizingPrediction:
    """Predict the images of `pixels` pixels per second that `on` classifies with a network of `parameters` parameters.

    Raises CatalogError AW-CAT-01 (unknown name), UsageError AW-USE-20 (not a size).
    """
    catalog = _load_home_catalog()
    _check_positive(pixels=pixels, parameters=parameters)
    machine = _parse_machine(on, catalog)
    slo = SLO(latency_p95_s=latency_p95_s)
    return _build_steady_prediction(size_image_serving(machine, "predict", pixels, parameters, slo, catalog), machine)


def predict_table(on: str, *, features: int, latency_p95_s: float | None = None) -> SizingPrediction:
    """Predict the rows of `features` features per second that the cores of `on` predict by boosted trees.

    Raises CatalogError AW-CAT-01 (unknown name), UsageError AW-USE-20 (not a count).
    """
    catalog = _load_home_catalog()
    _check_positive(features=features)
    machine = _parse_machine(on, catalog)
    slo = SLO(latency_p95_s=latency_p95_s)
    return _build_steady_prediction(size_tabular_serving(machine, "predict", features, slo, catalog), machine)


def predict_data(on: str, *, gib: float) -> SizingPrediction:
    """Predict the hours that the cores of `on` take to ingest and refine `gib` GiB.

    Raises CatalogError AW-CAT-01 (unknown name), UsageError AW-USE-20 (not a size).
    """
    catalog = _load_home_catalog()
    _check_positive(gib=gib)
    machine = _parse_machine(on, catalog)
    found = size_data_processing(machine, gib, "predict", catalog)
    return _build_prediction(found, machine, {"machine_hours": found.machine_hours})


def _build_steady_prediction(found: SteadyCapacity, machine: Machine) -> SizingPrediction:
    estimates = {"requests_per_s": found.requests_per_s, "latency_p95_s": found.latency_p95_s}
    without = "the figures ignore the latency limit"
    weak = tuple(f"an idle machine takes {miss.value:.3g} s; {without}" for miss in found.misses)
    return _build_prediction(found, machine, estimates, weak)


def _build_prediction(
    found: SteadyCapacity | BatchWork, machine: Machine, estimates: dict[str, Estimate], weak: tuple[str, ...] = ()
) -> SizingPrediction:
    (basis,) = found.bases
    device = machine.accelerator
    return SizingPrediction(
        model=found.model,
        accelerator="vCPU" if device is None else device.id,
        devices=machine.cores if device is None else machine.accelerator_count,
        stratum=basis.stratum,
        estimates=estimates,
        definitions={name: _DEFINITIONS[name] for name in estimates},
        formula=basis.formula,
        sources=basis.facts,
        weak=weak,
        assumed=found.assumptions,
    )


def _load_home_catalog() -> Catalog:
    return load_catalog(locate_home(settings.load()))


def _parse_machine(on: str, catalog: Catalog) -> Machine:
    host = _HOST.match(on)
    if host is not None:
        return Machine(on, None, 0, max(1, int(host[1])), _RAM_BYTES)
    count, name = name_resolution.parse_machine(on)
    accelerator = catalog.accelerator(name)
    if not accelerator.memory_bytes:
        hint = "state its threads instead, for example 64 vCPU"
        raise argument_error("AW-USE-20", f"{name} is a processor", "on", hint)
    return Machine(on, accelerator, max(count, 1), _THREADS, _RAM_BYTES)


def _check_positive(**sizes: float) -> None:
    for field, size in sizes.items():
        if not 0 < size < 1e15:
            raise argument_error("AW-USE-20", f"{field} is {size}, which is not a size", field, "give a number above 0")
